"""What users may import does not change by accident."""

import subprocess
import sys

import frostline as fl


def test_public_names_are_these():
    assert fl.__all__ == [
        "Advice",
        "Comparison",
        "Config",
        "Drift",
        "FrostlineError",
        "Interrupted",
        "Model",
        "Run",
        "advise",
        "compare",
        "drift_between",
        "load",
        "resume",
        "train",
        "trainability",
    ]
    assert dir(fl) == sorted(fl.__all__)
    for name in fl.__all__:
        assert getattr(fl, name).__doc__, name


def test_a_name_that_is_not_there_is_an_attribute_error():
    assert not hasattr(fl, "fit")


def test_importing_the_package_loads_no_heavy_library():
    code = "import sys, frostline.cli; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
