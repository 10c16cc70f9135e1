"""The script for a GPU at a small size on a CPU: every part finds what it says, or says what it needs."""

import json
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import PARTS, Job, main, make_batch, operations


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(device="cpu", small=True, folder=tmp_path, model_folder=None, result=tmp_path / "result.json")


@pytest.fixture(autouse=True)
def few_threads() -> Any:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def found_by(name: str, job: Job) -> dict[str, Any]:
    return json.loads(json.dumps(PARTS[name][0](job)))


def test_attention_is_as_exact_as_plain_products(job: Job) -> None:
    found = found_by("kernel", job)
    assert len(found["cases"]) == 6
    assert found["worst"] < 4  # both round to bfloat16, here and there
    assert all(case["repeats"] for case in found["cases"].values())


@pytest.mark.parametrize("name", ["learn-1.5b", pytest.param("learn-8b-lora", marks=pytest.mark.slow)])
def test_learning_is_timed_in_every_case(name: str, job: Job) -> None:
    found = found_by(name, job)
    assert list(found["cases"]) == ["packed, full", "packed, ragged", "padded, ragged"]
    for case in found["cases"].values():
        assert min(case["seconds"]) > 0
        assert case["rate"] > 0
        # Weights, gradients and AdamW's means of what is trained, and activations on top.
        assert case["planned_gib"] * gpu.GIB > 16 * found["parameters"] * (name == "learn-1.5b")
    assert json.loads((job.folder / "result.json").read_text()) == found  # kept, should the part not end


def test_operations_are_those_of_the_gradient() -> None:
    """Against a count of multiplications, token by token."""
    batch = make_batch(300, groups=2, size=3, prompt=5, responses=(1, 9))
    width, intermediate, layers, heads, keys, vocabulary = 64, 96, 2, 4, 2, 300
    head = width // heads
    forward = 0
    for group in batch.groups:
        texts = [(0, 5), *((5, len(each.tokens) - 1) for each in group.completions)]
        for begin, length in texts:
            for place in range(begin, begin + length):
                products = width * (heads + 2 * keys) * head + heads * head * width + 3 * width * intermediate
                forward += layers * 2 * (products + 2 * heads * head * (place + 1))
        forward += sum(len(each.tokens) for each in group.completions) * 2 * width * vocabulary
    # The count in the script takes half a token less to look at.
    assert operations("tiny", batch, passes=3) == pytest.approx(3 * forward, rel=0.01)


@pytest.mark.slow
def test_runs_resume_and_shards_are_whole(job: Job) -> None:
    assert found_by("resume", job) == {
        f"{name}, fp32": {"weights": True, "metrics": True, "not_deterministic": []}
        for name in ("as it is", "deterministic")
    }
    found = found_by("countdown", job)
    assert [step for step, _ in found["success"]] == [0, 2, 4]
    assert found_by("fsdp", job)["largest_gap_of_a_weight"] < 1e-6
    assert found_by("sample", job)["character"]["tokens"] > 0


@pytest.mark.slow
def test_a_run_of_a_language_model_is_prolonged_until_it_reaches_its_aim(
    job: Job, start_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(job, model_folder=start_model(string.printable, context=1024))
    found = found_by("smollm2", job)
    assert (found["reached_at_step"], [step for step, _ in found["success"]], found["steps"]) == (None, [0, 1, 2], 2)
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "progress", lambda *_: {"reached_at_step": 1})
        again = replace(job, folder=job.folder / "again")
        again.folder.mkdir()
        assert found_by("smollm2", again)["reached_at_step"] == 1
    assert gpu.progress(again.folder / "run", 0.28)["steps"] == 1


def test_a_part_says_what_it_needs_and_one_that_fails_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: dict[str, Any] = {"vllm": {"needs": "vLLM"}, "kernel": {"failed": "took more than 60 s"}}
    told |= {"sample": {"tokens": 3}, "resume": {"fp32": {"weights": True}, "bf16": {"failed": "other weights"}}}
    monkeypatch.setattr(gpu, "run_part", lambda name, *_, **__: told[name])

    def status_of(*parts: str) -> int:
        return main(["--small", "--device", "cpu", "--output", str(tmp_path / "out"), "--parts", *parts])

    assert [status_of("vllm", "sample"), status_of("resume")] == [0, 1]  # also where one case of a part has failed
    (tmp_path / "out" / "gpu.jsonl").unlink()
    capsys.readouterr()
    status = status_of(*told)
    lines = [json.loads(line) for line in (tmp_path / "out" / "gpu.jsonl").read_text().splitlines()]
    assert status == 1
    assert lines == [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each.pop("part") for each in lines] == list(told)
    for each, expected in zip(lines, told.values(), strict=True):
        about = each.pop("about")
        assert {"torch", "transformers", "CPU"} <= about.keys()
        assert each == {"small": True, **expected}


def test_a_process_that_ends_badly_is_told_with_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho \'{"half": 1}\' > "$4/sample.json"\necho "it broke" >&2\nexit 3\n')
    script.chmod(0o755)
    monkeypatch.setattr(gpu.sys, "executable", str(script))
    options = gpu.argparse.Namespace(output=tmp_path, small=True, model_folder=None)
    found = gpu.run_part("sample", options, "cpu", limit=600)
    assert (found["half"], found["failed"]) == (1, "ended with status 3: it broke")
    script.write_text("#!/bin/sh\nsleep 600\n")
    assert gpu.run_part("sample", options, "cpu", limit=0.5)["failed"] == "took more than 0 s"


def test_without_a_gpu_only_small_parts_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert main(["--output", str(tmp_path / "out")]) == 2
    assert "torch finds no GPU here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
