"""The benchmark of a training step at a small size: equal work, counted right, and what is missing is named."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

import rl.step.draw_groups
import rl.train
from benchmarks import rl_parties, rl_step
from rl.config import parse_config
from rl.step.success import judge


class TwoTurns(rl_parties.Turns):
    """Turns without a process around them."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def wait(self) -> None:
        if len(self.said) == 3:
            raise rl_parties.Enough
        self._began = self._spent = 0.0

    def say(self, **what: Any) -> None:
        self.said.append(json.loads(json.dumps(what)))


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name, value in {"PROMPTS": 3, "GROUP": 4, "NEW_TOKENS": 6, "BARE": (12, 5)}.items():
        monkeypatch.setattr(rl_parties, name, value)
        monkeypatch.setattr(rl_step, name, value, raising=False)
    # The benchmark puts its own in their places, in a process of its own.
    monkeypatch.setattr(rl.step.draw_groups, "judge", rl.step.draw_groups.judge)
    monkeypatch.setattr(rl.train, "draw_groups", rl.train.draw_groups)
    model = tmp_path / "model"
    model.mkdir()
    rl_parties.make_model(None, model)
    rl_parties.write_table(tmp_path / "table.json")
    job = {"model": str(model), "folder": str(tmp_path), "table": str(tmp_path / "table.json"), "device": "cpu"}
    return {
        **job,
        "precision": "fp32",
        "threads": 1,
        "rounds": 1,
        "micro_batch": None,
        "sampler": "torch",
        "countdown": False,
    }


def test_ours_computes_every_response_of_the_prompts_that_all_are_given(job: dict[str, Any]) -> None:
    turns = TwoTurns()
    with pytest.raises(rl_parties.Enough):
        rl_parties.ours(job, turns)
    ready, first, second = turns.said
    assert ready == {"ready": True}
    tokenizer = rl_step_tokenizer(job)
    for step, report in enumerate((first, second), start=1):
        assert report["tokens"] == 3 * 4 * 6  # nobody ended
        assert report["computed"] == 3 * 4  # no advantage is 0
        assert report["prompts"] == [tokenizer.encode(text) for text in rl_parties.prompts_of(job, step)]
        assert report["sampling"] + report["learning"] <= report["seconds"]


def test_a_step_as_it_comes_is_that_of_the_demo(
    job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = tmp_path / "demo.toml"
    text = rl_parties.COUNTDOWN.read_text(encoding="utf-8")
    for key, value in {"prompts_per_step": 3, "group_size": 4, "steps": 1, "stop_at": 1e-6}.items():
        text = re.sub(rf"^{key} = .*", f"{key} = {value}", text, flags=re.MULTILINE)
    demo.write_text(text, encoding="utf-8")
    monkeypatch.setattr(rl_parties, "COUNTDOWN", demo)
    rl_parties.make_countdown(tmp_path / "start", tmp_path / "grpo.json")
    job |= {"countdown": True, "model": str(tmp_path / "start"), "table": str(tmp_path / "grpo.json")}
    turns = TwoTurns()
    with pytest.raises(rl_parties.Enough):
        rl_parties.ours(job, turns)
    tokenizer = rl_step_tokenizer(job)
    for step, report in enumerate(turns.said[1:], start=1):
        assert report["prompts"] == [tokenizer.encode(text) for text in rl_parties.prompts_of(job, step)]
        assert len(report["prompts"]) == 3
        assert report["tokens"] <= 3 * 4 * 12
    assert rl.step.draw_groups.judge is judge  # the task's own


@pytest.mark.parametrize("sleep", [False, True])
def test_the_engine_sleeps_where_it_is_asked_to(job: dict[str, Any], sleep: bool) -> None:
    sampler = parse_config(rl_parties.config_of({**job, "sampler": "vllm", "sleep": sleep})).sampler
    assert (sampler.backend, sampler.sleep) == ("vllm", sleep)


def rl_step_tokenizer(job: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(job["model"], local_files_only=True)


def test_the_bare_pass_reports_its_way_and_the_rate_of_matrix_products(
    job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rl_parties, "matrix_rate", lambda *_: 1e9)
    turns = TwoTurns()
    with pytest.raises(rl_parties.Enough):
        rl_parties.bare(job, turns)
    for report in turns.said[1:]:
        assert report["way"][0] in (12, 5)
        assert report["learning"] > 0
        assert report["flops"] == 1e9


def test_operations_are_those_that_torch_counts(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of one, read in one pass; torch counts attention to later tokens too, which is a few percent here."""
    monkeypatch.setattr(rl_step, "GROUP", 1)
    model = AutoModelForCausalLM.from_pretrained(job["model"], attn_implementation="eager")
    prompts = [[2, 3, 4, 5]] * 3
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.full((3, 9), 2), logits_to_keep=6, use_cache=False)
    counted = rl_step.operations(Path(job["model"]), prompts)
    assert counted["sampling"] == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert counted["learning"] == 3 * counted["sampling"]


def party(name: str, **columns: list[float]) -> rl_step.Party:
    found = rl_step.Party.__new__(rl_step.Party)
    found.name = name
    found.reports = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return found


def test_ratios_are_formed_round_by_round(job: dict[str, Any]) -> None:
    seconds, hand_over = [1.0, 2.0, 4.0], [0.0, 0.0, 0.0]
    mine = party("ours", seconds=seconds, cpu=seconds, sampling=seconds, learning=seconds, hand_over=hand_over)
    other = party("trl", seconds=[3.0, 2.0, 8.0], cpu=[4.0, 2.0, 2.0], sampling=seconds, learning=seconds)
    found = rl_step.judge({"ours": mine, "trl": other}, Path(job["model"]), 2.0)
    assert found[0]["values"] == [3.0, 1.0, 2.0]
    assert found[0]["reached"]
    assert found[1]["values"] == [4.0, 1.0, 0.5]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert rl_step.main(["--model", "smollm2", "--model-folder", "nowhere", "--against", "bare"]) == 2
    assert "weightopt model smollm2 --output nowhere" in capsys.readouterr().err
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("trl", "datasets") else find(name))
    assert rl_step.main([]) == 2
    assert "trl needs trl, datasets: make .venv/.bench" in capsys.readouterr().err


def test_without_a_gpu_its_part_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rl_step, "gpus", lambda: 0)
    assert rl_step.main(["--parts", "gpu"]) == 0
    assert "need an NVIDIA GPU" in capsys.readouterr().out
