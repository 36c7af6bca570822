"""What libraries under torch are told by the environment."""

import os
import re
import subprocess
import sys

import pytest


def spin_count(**chosen):
    """What GNU's OpenMP under torch says of its threads that wait, in a process of its own."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "GOMP"))}
    result = subprocess.run(
        [sys.executable, "-c", "import frostline, torch"],
        env=plain | {"OMP_DISPLAY_ENV": "verbose"} | chosen,
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", result.stderr)
    if not found:
        pytest.skip("torch has another OpenMP than GNU's")
    return int(found[0])


def test_threads_that_wait_soon_leave_their_core_to_others():
    assert spin_count() == 30_000
    assert spin_count(GOMP_SPINCOUNT="500") == 500
    assert spin_count(OMP_WAIT_POLICY="active") > 300_000
