"""What several test modules start from: tables on disk, small start models, small runs, the command line called.

Nothing heavy is imported here, since this file is loaded with every test module. `tests.worlds` holds the small worlds.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from weightopt.table import group_table

# What commands say while they take long depends on how busy the machine is: here they say nothing, nor do processes
# that tests start.
os.environ["WEIGHTOPT_HEARTBEAT"] = "1e6"

# Weighting and rules for groups of one kind.
TABLES: dict[str, tuple[Callable[[Any], Any], float, float]] = {
    "linear-r": (lambda rho: 1 / rho, -1.0, 0.0),
    "rloo": (lambda rho: 1 + 0 * rho, 0.0, 0.0),
}


@contextmanager
def _single_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch while a module is tested, whatever the loop sets; then as many as before."""
    with _single_thread():
        yield


@pytest.fixture(scope="session")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """The file of a table of `TABLES` for groups of a size, written once."""
    folder = tmp_path_factory.mktemp("tables")

    @cache
    def write(name: str, group_size: int) -> Path:
        weight, all_wrong, all_right = TABLES[name]
        path = folder / f"{name}-{group_size}.json"
        group_table(
            weight, group_size, name=name, label=name, all_wrong_advantage=all_wrong, all_right_advantage=all_right
        ).save(path)
        return path

    return write


@pytest.fixture(scope="session")
def start_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of an untrained model that knows the characters of an alphabet, written once; not to be changed."""

    @cache
    def write(alphabet: str, *, chat_template: str | None = None, **shape: int) -> Path:
        from rl.models.config import ModelConfig
        from rl.models.policy import new_policy, save_policy

        folder = tmp_path_factory.mktemp("start")
        policy = new_policy(ModelConfig.model_validate(shape), alphabet, seed=0)
        policy.tokenizer.chat_template = chat_template
        save_policy(policy, folder)
        return folder

    return write


@pytest.fixture(scope="session")
def invoke() -> Callable[..., Any]:
    """Call a command of the command line with arguments of any type."""

    def call(command: Callable[..., None], *arguments: object) -> Any:
        app = typer.Typer()
        app.command()(command)
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Any]:
    """Run the command line in an empty folder: exit status, standard output, standard error."""
    from weightopt import cli

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["weightopt", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return call


# Runs of the small world of `tests.worlds`, made once and not to be changed.


@pytest.fixture(scope="session")
def table(table_file: Callable[[str, int], Path]) -> Path:
    """The table of the small world; beside it the one that follows where every option is in use."""
    from tests.worlds import GROUP_SIZE

    table_file("rloo", GROUP_SIZE)
    return table_file("linear-r", GROUP_SIZE)


@pytest.fixture(scope="session")
def config(table: Path) -> Any:
    from rl.config import parse_config
    from tests.worlds import document

    return parse_config(document(table))


@pytest.fixture(scope="session")
def whole(config: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has interrupted."""
    from rl.train import train
    from tests.worlds import STEPS

    output = tmp_path_factory.mktemp("whole") / "run"
    with _single_thread():
        outcome = train(config, output, quiet=True)
    assert outcome.finished
    assert outcome.step == STEPS
    return output


@pytest.fixture(scope="session")
def everything_on(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A configuration with every option in use, and its run that nothing has interrupted."""
    from rl.config import parse_config
    from rl.supervised import make_start_model
    from rl.train import train
    from tests.worlds import everything

    folder = tmp_path_factory.mktemp("everything")
    with _single_thread():
        make_start_model(parse_config(everything(table, None)), folder / "start")
        config, output = parse_config(everything(table, folder / "start")), folder / "run"
        train(config, output, quiet=True)
    return config, output
