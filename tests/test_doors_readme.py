"""The commands and the Python of the README and of the guides run, in order, in an empty folder of their own."""

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
GUIDES = ("README.md", "docs/solve.md", "docs/problems.md")
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


def run(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES)
def test_every_command_runs(page, tmp_path):
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    for line in (line for block in blocks for line in block.splitlines() if not line.startswith("make ")):
        program, *arguments = shlex.split(line)
        assert program in (".venv/bin/weightopt", "weightopt"), line
        key = next((key for key in SMALL if key == arguments[0]), "")
        run(tmp_path, "-m", "weightopt", *arguments, *SMALL.get(key, []))
        if "--output" in arguments:
            assert (tmp_path / arguments[arguments.index("--output") + 1]).exists(), line
    for code in re.findall(r"```python\n(.*?)```", text, re.S):
        run(tmp_path, "-c", code)
