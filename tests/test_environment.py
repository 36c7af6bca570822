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


def codes_made_again(**chosen):
    """For how many of 300 shapes of a product oneDNN makes code a second time."""
    program = """
import frostline, torch
if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
    raise SystemExit
for turn in ("first", "second"):
    print(turn)
    for rows in range(1, 301):
        torch.ones(rows, 16, dtype=torch.bfloat16) @ torch.ones(16, 16, dtype=torch.bfloat16)
"""
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    plain = {name: value for name, value in os.environ.items() if name not in names}
    result = subprocess.run(
        [sys.executable, "-uc", program],
        env=plain | {"ONEDNN_VERBOSE": "profile_create"} | chosen,
        capture_output=True,
        text=True,
        check=True,
    )
    first, _, second = result.stdout.partition("second\n")
    if "create:cache_miss" not in first:
        pytest.skip("oneDNN makes no code for products in bf16 here")
    return second.count("create:cache_miss")


def test_code_for_the_shapes_that_training_meets_is_kept():
    assert codes_made_again() == 0
    assert codes_made_again(ONEDNN_PRIMITIVE_CACHE_CAPACITY="64") > 200
