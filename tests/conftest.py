"""What several test modules of `rl` start from: threads put back, tables on disk, small start models, a command called.

Nothing heavy is imported here, since this file is loaded with every test module.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from weightopt.table import group_table

# Weighting and rules for groups of one kind.
TABLES: dict[str, tuple[Callable[[Any], Any], float, float]] = {
    "linear-r": (lambda rho: 1 / rho, -1.0, 0.0),
    "rloo": (lambda rho: 1 + 0 * rho, 0.0, 0.0),
}


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch while a module is tested, whatever the loop sets; then as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
