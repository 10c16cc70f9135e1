"""The code that docs/other_trainers.md shows, run against stand-ins of the libraries it is for."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from weightopt.table import WeightTable

PAGE = Path(__file__).resolve().parent.parent / "docs" / "other_trainers.md"
M = 4


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "table.json"
    command = [sys.executable, "-m", "weightopt", "table", "--weighting", "sqrt-r", "--group-size", str(M)]
    subprocess.run([*command, "--output", str(path)], check=True, capture_output=True)
    return path


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The Python blocks of the page; what they import besides ours is a stand-in."""
    verl = ModuleType("verl.trainer.ppo.core_algos")
    verl.register_adv_est = lambda name: lambda function: setattr(verl, name, function) or function  # type: ignore[attr-defined]
    trl = ModuleType("trl")
    trl.GRPOTrainer = Host  # type: ignore[attr-defined]
    for name in ("verl", "verl.trainer", "verl.trainer.ppo"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "verl.trainer.ppo.core_algos", verl)
    monkeypatch.setitem(sys.modules, "trl", trl)
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


class Host:
    """What `TableTrainer` uses of TRL: rewards of all processes, advantages of this one."""

    def __init__(self, *, rewards: list[float], process: int) -> None:
        self.num_generations = M
        self.model = SimpleNamespace(training=True)
        self.accelerator = SimpleNamespace(process_index=process)
        self._rewards = rewards

    def _calculate_rewards(self) -> torch.Tensor:
        return torch.tensor(self._rewards).unsqueeze(1)

    def _generate_and_score_completions(self, inputs: list[Any]) -> dict[str, torch.Tensor]:
        self._calculate_rewards()
        return {"advantages": torch.zeros(len(inputs))}


def expected(table: Path, correct: list[float]) -> np.ndarray:
    group = WeightTable.load(table).for_group(M)
    right, wrong = np.asarray(group.advantage_correct), np.asarray(group.advantage_wrong)
    rows = np.array(correct).reshape(-1, M)
    k = rows.sum(axis=1, keepdims=True).astype(int)
    return np.where(rows == 1, right[k], wrong[k]).ravel()


CORRECT = [0.0, 1.0, 0.0, 0.0] + [0.0] * 4 + [1.0, 1.0, 0.0, 1.0] + [1.0] * 4


def test_trl_takes_the_advantages_of_the_table(table: Path, blocks: list[str]) -> None:
    names: dict[str, Any] = {}
    exec(blocks[0], names)
    rows = len(CORRECT) // 2
    trainers = [names["TableTrainer"](rewards=CORRECT, process=n, table=table) for n in range(2)]
    parts = [trainer._generate_and_score_completions([None] * rows)["advantages"] for trainer in trainers]
    np.testing.assert_allclose(torch.cat(parts).numpy(), expected(table, CORRECT), rtol=1e-6)
    trainer = trainers[0]
    trainer.model.training = False
    assert not trainer._generate_and_score_completions([None] * rows)["advantages"].any()
    shaped = names["TableTrainer"](rewards=[0.5] * M, process=0, table=table)
    with pytest.raises(ValueError, match="rewards of 0 and 1"):
        shaped._generate_and_score_completions([None] * M)


def test_verl_takes_the_advantages_of_the_table(table: Path, blocks: list[str]) -> None:
    exec(blocks[1], {})
    estimate = sys.modules["verl.trainer.ppo.core_algos"].weightopt  # type: ignore[attr-defined]
    order = np.random.default_rng(0).permutation(len(CORRECT))
    rewards = torch.zeros(len(CORRECT), 3)
    rewards[:, 1] = torch.tensor(CORRECT)[order]
    mask = torch.tensor([[1.0, 1.0, 0.0]]).repeat(len(CORRECT), 1)
    prompts = np.repeat(["a", "b", "c", "d"], M)[order]
    settings = {"weight_table": str(table)}
    advantages, returns = estimate(
        token_level_rewards=rewards, response_mask=mask, config=settings, index=prompts, reward_baselines=None
    )
    np.testing.assert_allclose(advantages[:, 0].numpy(), expected(table, CORRECT)[order], rtol=1e-6)
    assert torch.equal(advantages, advantages[:, :1] * mask)
    assert advantages is returns
    with pytest.raises(ValueError, match="rewards of 0 and 1"):
        estimate(token_level_rewards=rewards * 0.5, response_mask=mask, config=settings, index=prompts)
