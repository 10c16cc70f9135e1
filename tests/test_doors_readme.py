"""The README's commands run, in order, in an empty folder of their own."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
# What the README runs at full size, at a size for a test.
SMALL = {
    "start-model": ["--set", "supervised.steps=2"],
    "train": ["--set", "training.steps=2", "--set", "rollout.prompts_per_step=4"],
}


def test_the_two_commands_come_first_and_exist():
    assert SHELL[0].startswith("make demo")
    assert SHELL[1].startswith("make test")
    assert README.index("make test") < len("\n".join(README.splitlines()[:30]))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^demo:", makefile, re.M)
    assert re.search(r"^test:", makefile, re.M)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as a reader would have it after `make demo`, with nothing in it but the repository's configs."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def run(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_every_command_runs(folder):
    for line in SHELL[2:]:
        program, *arguments = shlex.split(line)
        assert program in (".venv/bin/weightopt", ".venv/bin/python"), line
        command = ["-m", "weightopt", *arguments] if program.endswith("weightopt") else arguments
        key = next((key for key in SMALL if key in command[:3]), None)
        run(folder, *command, *SMALL.get(key or "", []))
    for name in ("table.json", "weights.png", "table16.json", "grpo.json"):
        assert (folder / name).stat().st_size > 0
    for code in PYTHON:
        run(folder, "-c", code)
