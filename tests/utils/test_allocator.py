"""Freed memory is used again, and only the command line asks for it."""

import os
import subprocess
import sys

import pytest

PAGE_FAULTS = """
import resource, sys
import numpy as np
from tunesmith.utils.device import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
np.ones(1 << 24)  # the first touch of memory is always a fault
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(1 << 24)  # 128 MiB
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of the GNU C library")
def test_blocks_that_are_freed_are_used_again() -> None:
    """Ten blocks one after the other bring in the pages of one; without the setting, of ten."""
    answers = {}
    for choice in ("keep", "leave"):
        command = [sys.executable, "-c", PAGE_FAULTS, choice]
        answers[choice] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    if answers["keep"][0] == "False":
        pytest.skip("this C library has no mallopt")
    assert int(answers["keep"][1]) < int(answers["leave"][1]) / 5


@pytest.mark.skipif(sys.platform != "linux", reason="segments that grow are for Linux")
@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_what_the_user_set_for_cards_stays(name: str) -> None:
    """The setting is made where there is none, and never over another."""
    code = "import os; from tunesmith.utils.device import configure_allocators as s; s(); print(os.environ.get(%r))"
    clean = {key: value for key, value in os.environ.items() if "ALLOC_CONF" not in key}
    found = []
    for environment in (clean, {**clean, name: "backend:native"}):
        command = [sys.executable, "-c", code % (name if environment is not clean else "PYTORCH_ALLOC_CONF")]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        found.append(answer.stdout.strip())
    assert found == ["expandable_segments:True", "backend:native"]


def test_the_library_leaves_its_host_alone() -> None:
    """Importing tunesmith and its commands changes nothing of the process."""
    code = (
        "import os; before = dict(os.environ); import tunesmith.api, tunesmith.cli; print(before == dict(os.environ))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"
