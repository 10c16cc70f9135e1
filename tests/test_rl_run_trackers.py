"""Trackers get what the files hold, each step once, also after a kill; and nothing they do reaches the training."""

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rl.config import Config, parse_config
from rl.errors import UsageError
from rl.records.metrics import EvaluationRecord, StepRecord, TimingRecord, read_metrics, read_timing
from rl.run.prepare import check_trackers
from rl.run.records import Records
from rl.run.trackers import values_of
from rl.supervised import make_start_model
from rl.train import train
from tests import worlds
from tests.amounts import some_of

NAMES = ("tensorboard", "trackio", "wandb")
EVALUATION_TAGS = ("held_out/success", "held_out/success_low", "held_out/greedy_high", "held_out/pass_at/2_low")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory, table_file: Callable[[str, int], Path]) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tracked")
    settings = worlds.document(
        table_file("rloo", 2),
        supervised={"steps": 1, "batch_size": 4},
        rollout={"prompts_per_step": 2, "group_size": 2},
        evaluation={"prompts": 2, "pass_at": [2], "greedy": True},
    )
    make_start_model(parse_config(settings), folder / "start")
    return {**settings, "start_model": str(folder / "start")}


@pytest.fixture(scope="module")
def plain(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run without a tracker."""
    output = tmp_path_factory.mktemp("plain") / "run"
    train(parse_config(document), output, quiet=True)
    return output


def tracked(document: dict[str, Any], *trackers: str, **changes: Any) -> Config:
    return parse_config({**document, "tracking": {"trackers": trackers, **changes}})


class Stopped(BaseException):
    """In the place of SIGKILL: no handler of ours catches it."""


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Die after the records of a step, before its evaluation."""
    add = Records.add

    def dying(self: Records, record: Any) -> None:
        add(self, record)
        if isinstance(record, StepRecord) and record.step == step:
            raise Stopped

    monkeypatch.setattr(Records, "add", dying)


def killed_and_resumed(config: Config, output: Path, monkeypatch: pytest.MonkeyPatch, *, step: int) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(Stopped):
            train(config, output, quiet=True)
    train(config, output, quiet=True, resume=True)


def assert_untouched(run: Path, plain: Path) -> None:
    """Whatever trackers did, the records are those of the run without one."""
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (run / name).read_bytes() == (plain / name).read_bytes()


def scalars_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every number of the files under the name trackers show it by, straight from the JSON lines."""
    found: dict[str, list[tuple[int, float]]] = {}
    groups = {"step": "train", "evaluation": "held_out", "timing": "seconds"}
    for name in ("metrics.jsonl", "timing.jsonl"):
        for line in (run / name).read_text().splitlines():
            fields = json.loads(line)
            kind, step = fields.pop("kind"), fields.pop("step")
            for key, value in fields.items():
                if isinstance(value, int | float):
                    found.setdefault(f"{groups[kind]}/{key}", []).append((step, float(value)))
    return found


# TensorBoard, read back by its own reader.


def events(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(
        str(run / "tracking" / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0}
    )
    reader.Reload()
    return reader


@pytest.mark.slow
def test_tensorboard_holds_the_records(
    document: dict[str, Any], plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_and_resumed(tracked(document, "tensorboard"), tmp_path / "run", monkeypatch, step=3)
    assert_untouched(tmp_path / "run", plain)
    reader = events(tmp_path / "run")
    written = {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
    expected = scalars_of(tmp_path / "run")
    assert set(expected) <= set(written)
    assert set(EVALUATION_TAGS) <= set(written)
    for tag, values in expected.items():
        assert [step for step, _ in written[tag]] == [step for step, _ in values], tag
        # Events are in single precision.
        assert [value for _, value in written[tag]] == pytest.approx([value for _, value in values], rel=1e-6, abs=1e-6)
    assert [step for step, _ in written["held_out/success"]] == [0, 2, 4, 5]
    steps = read_metrics(tmp_path / "run" / "metrics.jsonl").steps
    histograms = reader.Histograms("train/success_histogram")
    assert [event.step for event in histograms] == [1, 2, 3, 4, 5]
    for event, record in zip(histograms, steps, strict=True):
        counts = dict(zip(event.histogram_value.bucket_limit, event.histogram_value.bucket, strict=True))
        # Empty buckets at the ends are left out, but for one.
        assert [counts.get(k + 0.5, 0) for k in range(3)] == list(record.success_histogram)
        assert event.histogram_value.sum / event.histogram_value.num / 2 == pytest.approx(record.reward)
    assert {"run/text_summary", "train/table/text_summary"} <= set(reader.Tags()["tensors"])
    assert "tensorflow" not in sys.modules


@pytest.mark.slow
def test_a_tracker_added_later_gets_the_past(document: dict[str, Any], tmp_path: Path) -> None:
    settings = {**document, "training": {**document["training"], "steps": 2}}
    train(parse_config(settings), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "tracking").exists()
    train(tracked(document, "tensorboard"), tmp_path / "run", quiet=True, resume=True)
    assert [event.step for event in events(tmp_path / "run").Scalars("train/reward")] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_failing_tracker_stops_nothing(
    document: dict[str, Any],
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    flush = SummaryWriter.flush
    steps: list[int] = []

    def failing(self: SummaryWriter) -> None:
        steps.append(len(steps))
        if steps[-1] >= 2:  # of the measurement before the first step, of step 1, and from there on
            raise OSError(28, "No space left on device")
        flush(self)

    config = tracked(document, "tensorboard")
    with monkeypatch.context() as patch:
        patch.setattr(SummaryWriter, "flush", failing)
        train(config, tmp_path / "run")
    assert_untouched(tmp_path / "run", plain)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("tracker 'tensorboard' failed and is off until the run is resumed (OSError: [Errno 28]") == 1
    assert steps == [0, 1, 2]
    train(config, tmp_path / "run", quiet=True, resume=True)  # nothing to do, but for the tracker
    assert [event.step for event in events(tmp_path / "run").Scalars("train/reward")] == [1, 2, 3, 4, 5]


# trackio and wandb by doubles of the calls that their documentation describes, and in earnest where they are installed.


class Double(ModuleType):
    """Records what a run of trackio or wandb is given; calls that their documentation does not know are errors."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.inits: list[dict[str, Any]] = []
        self.rows: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.finished = 0
        self.Settings = SimpleNamespace
        self.__spec__ = importlib.util.spec_from_loader(name, None)

    def Histogram(self, *, np_histogram: tuple[list[int], list[float]]) -> dict[str, Any]:
        counts, edges = np_histogram
        assert len(edges) == len(counts) + 1
        return {"histogram": counts}

    def finish(self) -> None:
        self.finished += 1

    def run(self, key: str) -> Any:
        rows = self.rows.setdefault(key, [])

        def log(data: dict[str, Any], step: int) -> None:
            assert all(isinstance(value, float | str | dict) for value in data.values())
            rows.append((step, data))

        return SimpleNamespace(log=log, finish=self.finish, url=f"https://example.org/{key}")


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Double:
    double = Double("wandb")

    def init(
        *, project: str, name: str, id: str, resume: str | None, dir: str, mode: str, config: dict, settings: Any
    ) -> Any:
        assert Path(dir).is_dir()
        assert settings.console == "off"
        assert config["schema"].startswith("rl.run/")
        double.inits.append({"project": project, "name": name, "id": id, "resume": resume, "mode": mode})
        return double.run(id)

    double.init = init  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "wandb", double)
    return double


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> Double:
    double = Double("trackio")

    def init(*, project: str, name: str, config: dict, resume: str, embed: bool) -> Any:
        assert resume in ("allow", "never")
        assert not embed
        assert config["schema"].startswith("rl.run/")
        print("* Trackio says much")
        double.inits.append({"project": project, "name": name, "resume": resume})
        return double.run(name)

    double.init = init  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "trackio", double)
    return double


def assert_rows(rows: list[tuple[int, dict[str, Any]]], run: Path) -> None:
    """Each step once, in order, with the numbers of the files; the measurement of step 0 alone."""
    assert [step for step, _ in rows] == [0, 1, 2, 3, 4, 5]
    for tag, values in scalars_of(run).items():
        if not tag.startswith("seconds/"):  # of the second time a step was made
            assert [(step, data[tag]) for step, data in rows if tag in data] == values


@pytest.mark.slow
@some_of("mode", ["offline", "online"], 1)
def test_wandb_gets_each_step_once(
    document: dict[str, Any], plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb: Double, mode: str
) -> None:
    config = tracked(document, "wandb", project="mine", run="first", wandb_mode=mode)
    killed_and_resumed(config, tmp_path / "run", monkeypatch, step=4)
    assert_untouched(tmp_path / "run", plain)
    first, second = wandb.inits
    assert first == {"project": "mine", "name": "first", "id": first["id"], "resume": None, "mode": mode}
    assert second == {**first, "resume": "allow" if mode == "online" else None}
    assert_rows(wandb.rows[first["id"]], tmp_path / "run")
    assert wandb.finished == 2


@pytest.mark.slow
def test_trackio_gets_each_step_once(
    document: dict[str, Any],
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trackio: Double,
    capsys: pytest.CaptureFixture[str],
) -> None:
    killed_and_resumed(tracked(document, "trackio"), tmp_path / "run", monkeypatch, step=4)
    assert_untouched(tmp_path / "run", plain)
    first, second = trackio.inits
    assert first["name"].startswith("run-")  # the folder's name, and an id, since trackio knows runs by name
    assert (first["project"], first["resume"]) == ("weightopt", "never")
    assert second == {**first, "resume": "allow"}
    assert_rows(trackio.rows[first["name"]], tmp_path / "run")
    assert trackio.finished == 2
    assert capsys.readouterr().out == ""


def test_a_killed_process_has_sent_no_step_in_part(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb: Double
) -> None:
    stop_after(monkeypatch, 2)
    with pytest.raises(Stopped):
        train(tracked(document, "wandb"), tmp_path / "run", quiet=True)
    (rows,) = wandb.rows.values()
    assert [step for step, _ in rows] == [0, 1]
    assert json.loads((tmp_path / "run" / "tracking" / "state.json").read_text())["sent"] == {"wandb": 1}


@pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None,
    reason="needs the optional extra wandb; the recording double above holds in its place",
)
def test_wandb_in_earnest(document: dict[str, Any], plain: Path, tmp_path: Path, monkeypatch: Any) -> None:
    killed_and_resumed(tracked(document, "wandb"), tmp_path / "run", monkeypatch, step=4)
    assert_untouched(tmp_path / "run", plain)
    parts = sorted((tmp_path / "run" / "tracking" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(parts) == 2
    assert len({part.name for part in parts}) == 1  # of one id
    assert all(b"train/reward" in part.read_bytes() for part in parts)


@pytest.mark.skipif(
    importlib.util.find_spec("trackio") is None,
    reason="needs the optional extra trackio; the recording double above holds in its place",
)
def test_trackio_in_earnest(document: dict[str, Any], plain: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    killed_and_resumed(tracked(document, "trackio"), tmp_path / "run", monkeypatch, step=4)
    assert_untouched(tmp_path / "run", plain)
    from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports]

    (name,) = SQLiteStorage.get_runs("weightopt")
    assert_rows(
        [(row["step"], row) for row in sorted(SQLiteStorage.get_logs("weightopt", name), key=lambda row: row["step"])],
        tmp_path / "run",
    )


# What cannot start, and names.


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_one_sentence(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("rl.run.prepare.find_spec", lambda package: None if package == name else object())
    with pytest.raises(UsageError, match=rf"^tracker '{name}' is not installed: pip install 'weightopt\[{name}\]'$"):
        train(tracked(document, name), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    check_trackers(tracked(document, *(set(NAMES) - {name})).tracking)


@pytest.mark.slow
def test_a_tracker_that_cannot_be_opened_is_off_and_the_others_are_on(
    document: dict[str, Any],
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wandb: Double,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refusing(**_: Any) -> None:
        raise RuntimeError("no key\nto log in with")

    monkeypatch.setattr(wandb, "init", refusing)
    train(tracked(document, "wandb", "tensorboard"), tmp_path / "run")
    assert_untouched(tmp_path / "run", plain)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("'wandb' failed and is off until the run is resumed (RuntimeError: no key to log in with)") == 1
    assert [event.step for event in events(tmp_path / "run").Scalars("train/reward")] == [1, 2, 3, 4, 5]


def test_a_damaged_state_starts_a_new_run_of_the_tracker(
    document: dict[str, Any], tmp_path: Path, wandb: Double, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tracked({**document, "training": {**document["training"], "steps": 2}}, "wandb")
    train(config, tmp_path / "run", quiet=True)
    (tmp_path / "run" / "tracking" / "state.json").write_text("{")
    train(config, tmp_path / "run", resume=True)
    assert " ".join(capsys.readouterr().out.split()).count("state.json is damaged: trackers get the run") == 1
    first, second = wandb.inits
    assert second["id"] != first["id"]
    assert [[step for step, _ in rows] for rows in wandb.rows.values()] == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        (
            {"trackers": ["mlflow"]},
            r"'tracking.trackers.0' is 'mlflow': it must be one of 'tensorboard', 'trackio', 'wandb'",
        ),
        ({"trackers": ["wandb", "wandb"]}, r"'tracking.trackers' is .*: it must be different values"),
        ({"wandb_mode": "shared"}, r"'tracking.wandb_mode' is 'shared': it must be one of 'offline', 'online'"),
        ({"project": "a/b"}, r"'tracking.project' is 'a/b': "),
    ],
)
def test_a_mistake_gets_one_sentence(document: dict[str, Any], section: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_config({**document, "tracking": section})


def test_every_field_of_the_records_is_shown(plain: Path) -> None:
    metrics, timing = read_metrics(plain / "metrics.jsonl"), read_timing(plain / "timing.jsonl")
    values = values_of([metrics.steps[1], metrics.evaluations[1], timing[1]])
    assert isinstance(metrics.evaluations[1], EvaluationRecord)
    assert isinstance(timing[1], TimingRecord)
    for record in (metrics.steps[1], metrics.evaluations[1], timing[1]):
        for name, value in asdict(record).items():
            # Pairs by K are in the metrics file alone: trackers have no form for them.
            if name not in ("step", "tokens_by_successes") and value not in (None, {}, ()):
                assert any(f"/{name}" in tag for tag in values), name
    assert values["train/clipped"] == 0.0
    for stratum, counts in metrics.steps[1].histogram_by_difficulty.items():
        assert values[f"train/histogram_by_difficulty/{stratum}"] == counts
