"""Commands, Python and TOML of the README and of all pages of docs run, in order, in an empty folder for each page."""

import doctest
import importlib
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()]
PAGES = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")))
BLOCK = re.compile(r"^( *)```(sh|python|toml)\n(.*?)^ *```", re.S | re.M)
# What the pages run at full size, at a size for a test.
SMALL = {
    "start-model": ["--set", "supervised.steps=2"],
    "train": ["--set", "training.steps=2", "--set", "rollout.prompts_per_step=4"],
}
# Lines that are not run, by how they begin, each with the reason.
NOT_RUN = {
    "make ": "installs, and runs this suite",
    ".venv/bin/python -m pip install trl": "installs; `make test-adapters` tests that trainer",
    "python -m verl.trainer.main_ppo": "needs verl; tests/test_adapters_verl.py composes this command line",
    "trainer.algorithm.advantage_estimator": "settings of SkyRL; tests/test_adapters_hosts.py checks them",
    "--custom-config-path": "settings of slime; tests/test_adapters_hosts.py checks them",
    "weightopt doctor train.py": "needs a script of yours; tests/test_adapters_doctor.py has some",
    "weightopt doctor --json composed.yaml": "needs a configuration of yours; tests/test_adapters_doctor.py has some",
    "weightopt sweep ...": "a pattern, for a cluster; tests/test_weightopt_spread.py starts one",
    "weightopt simulate ...": "a pattern, for a cluster; tests/test_weightopt_spread.py starts one",
    "python -m studies.weightings": "a study of days; tests/test_studies.py runs it small",
    "torchrun": "several GPUs; tests/test_rl_processes.py starts several processes",
    "weightopt explore": "serves until it is ended; tests/test_figures_explore.py drives it",
    "from trl import GRPOConfig": "needs TRL; tests/test_adapters_trl.py trains with it",
    "# in the entry point of the run, before validate_cfg": "needs SkyRL; tests/test_adapters_hosts.py registers it",
}
# What a page takes as there: the commands that make it.
THERE = {"docs/adapters.md": [["table", "--weighting", "grpo", "--output", "table.json"]]}


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each block of a page that could run, in order; shell lines one by one."""
    found: list[tuple[str, str]] = []
    for indent, language, text in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        text = textwrap.dedent(text) if indent else text
        if language != "sh":
            found.append((language, text))
            continue
        lines = text.replace("\\\n", " ").splitlines()
        found += [("sh", line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    return found


def left_out(text: str) -> bool:
    return any(text.startswith(beginning) for beginning in NOT_RUN)


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
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_every_command_and_every_block_runs(page, tmp_path):
    for arguments in THERE.get(page, []):
        run(tmp_path, "-m", "weightopt", *arguments)
    for language, text in blocks(page):
        if left_out(text):
            continue
        if language == "toml":
            tomllib.loads(text)
        elif language == "python":
            run(tmp_path, "-c", text)
        else:
            program, *arguments = shlex.split(text, comments=True)
            assert program in (".venv/bin/weightopt", "weightopt"), text
            run(tmp_path, "-m", "weightopt", *arguments, *(SMALL.get(arguments[0], []) if arguments else []))
            if "--output" in arguments and "--dry-run" not in arguments:
                assert (tmp_path / arguments[arguments.index("--output") + 1]).exists(), text


def test_what_is_not_run_is_on_a_page_and_its_reason_names_tests_that_exist():
    texts = [text for page in PAGES for _, text in blocks(page)]
    for beginning, reason in NOT_RUN.items():
        assert any(text.startswith(beginning) for text in texts), beginning
        assert all((ROOT / name).exists() for name in re.findall(r"tests/\w+\.py", reason))


WITH_EXAMPLES = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for package in ("theory", "weightopt", "sim", "rl", "figures", "demo")
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_every_example_of_a_docstring_holds(name):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert found.attempted > 0
    assert found.failed == 0
