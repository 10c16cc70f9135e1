"""What a run needs to go on: weights, optimizer state and the number of steps done.

Random state is not among it, because every draw of a run has a seed of its own (`rl.seeds`). A checkpoint is a folder::

    checkpoints/step-000120/model/                  weights, configuration, tokenizer: opens with transformers
    checkpoints/step-000120/optimizer.safetensors   "exp_avg/<parameter>" and so on
    checkpoints/step-000120/state.json              schema and step

It is written under another name, flushed to disk and renamed, so that a folder with such a name is always whole. Older
checkpoints are removed once a newer one is safe.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rl.model import Policy, save_policy

SCHEMA = "rl.checkpoint/1"
NAME = re.compile(r"step-(\d{6,})")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder that appears under its name only when it is complete and on disk.

    Yields a folder of another name beside it. If filling it fails, it is removed and nothing has changed.

    Raises
    ------
    FileExistsError
        If ``folder`` exists.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left behind by a run that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in [*partial.rglob("*"), partial]:
            _flush(path)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _flush(folder.parent)


def save_checkpoint(folder: Path, policy: Policy, optimizer: torch.optim.Optimizer, *, step: int) -> Path:
    """Write the checkpoint of ``step`` into ``folder``, then remove the others; returns its path."""
    path = folder / f"step-{step:06d}"
    with whole_folder(path) as partial:
        save_policy(policy, partial / "model")
        save_file(_flatten(policy, optimizer), partial / "optimizer.safetensors")
        state = {"schema": SCHEMA, "step": step}
        (partial / "state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")
    for other in folder.iterdir():
        if other != path:
            shutil.rmtree(other)
    return path


def latest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint of the highest step; None if there is none."""
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)] if folder.is_dir() else []
    return max(found, key=checkpoint_step, default=None)


def checkpoint_step(path: Path) -> int:
    """Number of updates made before the checkpoint at ``path``."""
    return int(path.name.removeprefix("step-"))


def load_optimizer_state(path: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Give ``optimizer``, made for the parameters of ``policy``, the state saved in a checkpoint."""
    parameters = dict(policy.model.named_parameters())
    for key, value in load_file(path / "optimizer.safetensors").items():
        entry, name = key.split("/", maxsplit=1)
        optimizer.state[parameters[name]][entry] = value


def _flatten(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{entry}/{name}": value
        for name, parameter in policy.model.named_parameters()
        for entry, value in optimizer.state[parameter].items()
    }


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
