"""A table file that is followed: taken up in its steps, kept, recorded, and the same again when a run goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rl.config import Config, load_config
from rl.errors import UsageError
from rl.records.layout import TABLES
from rl.records.metrics import METRICS_FILE, read_metrics
from rl.run.followed import copy_of
from rl.run.run import Run
from rl.train import train
from tests.worlds import document, toml_of
from weightopt.table import WeightTable

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def config(tmp_path: Path, table_file: Callable[[str, int], Path]) -> Config:
    path = tmp_path / "run.toml"
    path.write_text(
        toml_of(
            document(
                table_file("linear-r", 4),
                task={"name": "addition", "digits": {"1": 1}},
                model={"context": 64},
                supervised={"steps": 2, "batch_size": 8},
                rollout={"prompts_per_step": 4, "group_size": 4},
                training={"steps": 6, "checkpoint_every": 2},
                evaluation={"prompts": 2, "samples": 1},
                weighting={"follow": str(tmp_path / "advice.json"), "follow_every": 2},
            )
        )
    )
    return load_config(path, [])


def write_before(monkeypatch: pytest.MonkeyPatch, writes: dict[int, Callable[[], Any]]) -> None:
    """Let others write the file just before the run looks at it in a step."""
    follow = Run.follow

    def written(self: Run) -> None:
        writes.get(self.next_step, lambda: None)()
        follow(self)

    monkeypatch.setattr(Run, "follow", written)


@pytest.mark.slow
def test_a_file_that_changes_is_taken_up_in_its_steps_alone(
    config: Config, tmp_path: Path, table_file: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    advice, output = tmp_path / "advice.json", tmp_path / "run"
    others = {name: WeightTable.load(table_file(name, 4)) for name in ("linear-r", "rloo")}
    # Looked at before steps 3 and 5; what stands there in step 4 waits, and the same table again is no change.
    write_before(monkeypatch, {3: lambda: others["linear-r"].save(advice), 4: lambda: others["rloo"].save(advice)})
    train(config, output, quiet=True)
    records = read_metrics(output / METRICS_FILE).steps
    assert [record.table for record in records] == ["linear-r"] * 4 + ["rloo"] * 2
    assert [record.table_checksum for record in records] == [others["linear-r"].checksum] * 4 + [
        others["rloo"].checksum
    ] * 2
    assert [path.name for path in (output / TABLES).iterdir()] == ["step-000005.json"]
    assert WeightTable.load(copy_of(output, 5)) == others["rloo"]


@pytest.mark.slow
def test_a_run_that_goes_on_comes_out_as_if_it_had_not_stopped(
    config: Config, tmp_path: Path, table_file: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    advice = tmp_path / "advice.json"
    tables = {name: WeightTable.load(table_file(name, 4)) for name in ("rloo", "linear-r")}
    writes = {3: lambda: tables["rloo"].save(advice), 5: lambda: tables["linear-r"].save(advice)}
    with monkeypatch.context() as patch:
        write_before(patch, writes)
        train(config, tmp_path / "whole", quiet=True)
    advice.unlink()

    def stop() -> None:
        raise UsageError("stopped")

    output = tmp_path / "parts"
    with monkeypatch.context() as patch:
        write_before(patch, {**writes, 6: stop})
        with pytest.raises(UsageError, match="stopped"):
            train(config, output, quiet=True)
    # By now the file holds something else, and then nothing: the copies are what counts.
    tables["rloo"].save(advice)
    train(config, output, resume=True, quiet=True)
    for name in (METRICS_FILE, str(copy_of(Path(), 3)), str(copy_of(Path(), 5))):
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_a_file_that_is_no_table_for_the_run_is_said_and_left(
    config: Config,
    tmp_path: Path,
    table_file: Callable[[str, int], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    advice, output = tmp_path / "advice.json", tmp_path / "run"
    write_before(
        monkeypatch,
        {3: lambda: advice.write_text("{"), 5: lambda: WeightTable.load(table_file("rloo", 8)).save(advice)},
    )
    train(config, output)
    assert {record.table for record in read_metrics(output / METRICS_FILE).steps} == {"linear-r"}
    assert not (output / TABLES).exists()
    said = " ".join(capfd.readouterr().out.split())
    assert "step 3: weighting.follow" in said
    assert "step 5: weighting.follow" in said
