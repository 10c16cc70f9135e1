"""The wheel, built and used away from the repository: it carries configurations, pages and the demonstration."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The file; built without any network by what `make test` has installed."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: `make test` installs it")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Its contents in a folder that comes before the repository in the search path: what pip does with a pure wheel."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def call(installed, tmp_path):
    """Run Python in an empty folder, with the wheel."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    return run


def test_what_is_in_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"weightopt-{PROJECT['project']['version']}.dist-info/METADATA").decode()
    for path in (ROOT / "configs").glob("*.toml"):
        assert f"weightopt/configs/{path.name}" in names
    for path in (ROOT / "configs" / "simulate").glob("*.toml"):
        assert f"weightopt/configs/simulate/{path.name}" in names
    for package in ("weightopt", "theory", "sim", "rl", "figures", "demo"):
        files = (path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        assert {path.relative_to(ROOT).as_posix() for path in files} <= names
    tops = {name.partition("/")[0] for name in names}
    about = f"weightopt-{PROJECT['project']['version']}.dist-info"
    assert tops == {"weightopt", "theory", "sim", "rl", "figures", "demo", about}
    extras = {line.partition(": ")[2] for line in metadata.splitlines() if line.startswith("Provides-Extra: ")}
    assert extras == PROJECT["project"]["optional-dependencies"].keys()


@pytest.mark.parametrize("package", ["weightopt", "theory", "sim", "rl", "figures", "demo"])
def test_the_modules_are_those_of_the_wheel(package, call, installed):
    done = call("-c", f"import {package}; print({package}.__file__)")
    assert Path(done.stdout.strip()) == installed / package / "__init__.py"


def test_the_command_line_works_from_an_empty_folder(call):
    version = call("-m", "weightopt", "--version")
    assert version.stdout == f"weightopt {PROJECT['project']['version']}\n", version.stderr
    shown = call("-m", "weightopt", "--help")
    for name in PROJECT["project"]["entry-points"]["weightopt.commands"]:
        assert name in shown.stdout


@pytest.mark.slow
def test_shipped_configurations_are_named(call):
    defaults = call("-m", "weightopt", "train", "--print-config")
    assert tomllib.loads(defaults.stdout)["task"]["name"] == "addition", defaults.stderr
    demo = call("-m", "weightopt", "train", "--config", "demo", "--print-config")
    assert tomllib.loads(demo.stdout)["task"]["name"] == "countdown", demo.stderr
    sft = call("-m", "weightopt", "simulate", "--config", "sft", "--print-config")
    assert "populations" in tomllib.loads(sft.stdout), sft.stderr
    wrong = call("-m", "weightopt", "train", "--config", "dmeo", "--output", "run")
    assert wrong.returncode == 2
    assert "neither a file here nor one that comes with the project: " in wrong.stderr
    assert "demo" in wrong.stderr


@pytest.mark.slow
def test_the_demonstration_runs_from_an_empty_folder(call, tmp_path):
    small = (
        *("training.steps=2", "training.evaluate_every=1", "training.rollout_share=1.0"),
        *("rollout.prompts_per_step=2", "evaluation.prompts=4", "evaluation.samples=1"),
    )
    changes = [part for change in small for part in ("--set", change)]
    done = call("-m", "weightopt", "demo", "--quick", *changes)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / "demo-quick"
    for name in ("table.json", "training.png", "report.md"):
        assert (folder / name).stat().st_size > 0
        assert str(Path("out/demo-quick") / name) in done.stdout
    assert "No table is shown to help" in " ".join(done.stdout.split())
    assert "--quick: one seed" in done.stdout
    last = done.stdout.splitlines()[-1]
    if (folder / "report.html").exists():
        assert last == "Report:   out/demo-quick/report.html, to open in a browser"
    else:
        assert last.endswith("weightopt[report]'")
