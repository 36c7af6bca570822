import os
import platform
import resource
import subprocess
import sys

import pytest

from frostline.model.memory import peak_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is another one")
def test_freed_memory_is_kept_for_the_next_step():
    """In a process of its own: rooms of a step are used again without the system clearing them anew."""
    code = """
import resource, torch
from frostline.model.memory import keeping_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        rooms = [torch.zeros(3 * 2**20, dtype=torch.uint8) for _ in range(60)]
        del rooms
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
with keeping_freed_memory():
    faults()
    print(faults())
"""

    def count(**variables):
        command = [sys.executable, "-c", code]
        environment = {k: v for k, v in os.environ.items() if "MALLOC" not in k} | variables
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return int(done.stdout)

    pages = 10 * 60 * 3 * 2**20 // resource.getpagesize()
    # What the allocator keeps by itself depends on where its last block lies: nothing is said of that.
    assert count() < pages / 100
    # Who tells it otherwise is obeyed.
    assert count(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072") > pages * 0.9


def test_a_process_is_not_charged_with_what_its_parent_held():
    code = "from frostline.model.memory import peak_memory; print(peak_memory())"
    room = bytearray(400 * 2**20)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**20 < int(done.stdout) < len(room) < peak_memory()
