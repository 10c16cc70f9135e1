"""Freed memory stays with the process, and only where nobody has decided otherwise."""

import subprocess
import sys

import pytest

from rl import allocator

# Page faults of a buffer that is allocated, written and freed again and again.
FAULTS = """
import resource, sys
from rl.allocator import keep_memory
kept = sys.argv[1] == "keep" and keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        buffer = bytearray(b"x") * (64 * 2**20)
        del buffer
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""


def test_memory_is_not_asked_for_twice() -> None:
    def run(how: str) -> list[str]:
        command = [sys.executable, "-c", FAULTS, how]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    kept, faults = run("keep")
    if kept != "True":
        pytest.skip("another C library than glibc")
    assert int(faults) < int(run("leave")[1]) / 10


@pytest.mark.parametrize("variable", allocator.VARIABLES)
def test_the_environment_has_the_last_word(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "131072")
    assert not allocator.keep_memory()
