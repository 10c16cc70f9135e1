"""Drawing ahead: a step learns from what the weights before its own have drawn, in another process."""

import json
from pathlib import Path

import pytest

from rl.config import parse_config
from rl.train import train
from tests.worlds import document

pytestmark = pytest.mark.usefixtures("one_thread")

def test_x(table: Path, tmp_path: Path) -> None:
    config = parse_config(document(table, sampler={"ahead": "cpu"}))
    train(config, tmp_path / "run", quiet=True)
    print((tmp_path/"run"/"metrics.jsonl").read_text())
    print((tmp_path/"run"/"timing.jsonl").read_text())
    print([str(p) for p in (tmp_path/"run").rglob("*")])
