"""Real trainers of TRL train with the advantages of a table, alone and with several processes.

TRL is not among the packages of the project's own environment: `make test-adapters` builds one that has it.
"""

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from theory.catalogue import EVERYTHING
from weightopt.adapters import AdapterError
from weightopt.catalogue_tables import catalogue_table
from weightopt.table import WeightTable

pytest.importorskip("trl", reason="TRL is not installed: make test-adapters")

from tests import trl_runs

ROOT = Path(__file__).resolve().parent.parent
M = 4
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trl_runs.make_model(tmp_path_factory.mktemp("model") / "tiny")


def table(name: str, size: int | None = M) -> WeightTable:
    return catalogue_table(EVERYTHING[name], size)


def expected(weights: WeightTable, rewards: np.ndarray, size: int = M) -> np.ndarray:
    """The table's advantages of rows of groups, NaN where a response cannot be scored, one group at a time."""
    wanted = []
    for group in rewards.reshape(-1, size):
        known = group[~np.isnan(group)]
        k, m = int(known.sum()), len(known)
        if m > 1:
            read = weights.for_group(m)
            assert read.advantage_correct is not None
            assert read.advantage_wrong is not None
            right, wrong = read.advantage_correct[k], read.advantage_wrong[k]
        else:
            right, wrong = weights.all_right_advantage, weights.all_wrong_advantage
        wanted += [0.0 if np.isnan(reward) else right if reward == 1 else wrong for reward in group]
    return np.array(wanted)


def train(*args: Any, **kwargs: Any) -> Any:
    """A trainer that has trained."""
    made = trl_runs.trainer(*args, **kwargs)
    made.train()
    return made


def column(seen: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    return np.concatenate([batch[key].ravel() for batch in seen])


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """20 steps with Sqrt-R, whose all-wrong groups have an advantage."""
    output = tmp_path_factory.mktemp("run")
    file = output / "table.json"
    table("sqrt-r").save(file)
    return train(folder, output, table=file, loss_type="dr_grpo", log_completions=True)


def test_every_advantage_is_the_table_s_in_the_loss_and_in_the_log(run: Any) -> None:
    assert len(run.seen) == 20
    rewards = column(run.seen, "rewards")
    counts = rewards.reshape(-1, M).sum(axis=1)
    assert {0, 1, 2, 3} <= set(counts), "groups of several kinds are drawn"
    wanted = expected(table("sqrt-r"), rewards)
    assert (wanted[np.repeat(counts, M) == 0] == -1).all()
    np.testing.assert_allclose(column(run.seen, "advantages"), wanted, rtol=1e-6)  # a rounding to float32
    np.testing.assert_allclose(column(run.seen, "logged"), wanted, rtol=1e-6)


def test_the_completions_that_trl_writes_have_them(run: Any) -> None:
    import pandas as pd

    files = sorted((Path(run.args.output_dir) / "completions").glob("*.parquet"))
    assert len(files) == 20
    rows = pd.concat(map(pd.read_parquet, files))
    wanted = expected(table("sqrt-r"), rows["early_letter"].to_numpy())
    np.testing.assert_allclose(rows["advantage"].to_numpy(), wanted, rtol=1e-6)


def test_the_reward_rises(run: Any) -> None:
    """From three letters of ten tokens to 0.88; five standard errors of 72 responses at 0.3 are 0.27."""
    rewards = [batch["rewards"].mean() for batch in run.seen]
    assert np.mean(rewards[:3]) < 0.57
    assert np.mean(rewards[-3:]) > 0.7


def test_the_log_says_what_the_table_has_seen(run: Any) -> None:
    lines = [line for line in run.state.log_history if "weight_table/all_wrong" in line]
    assert len(lines) == 20
    for line, batch in zip(lines, run.seen, strict=True):
        counts = batch["rewards"].reshape(-1, M).sum(axis=1)
        assert line["weight_table/all_wrong"] == pytest.approx((counts == 0).mean())
        assert line["weight_table/all_right"] == pytest.approx((counts == M).mean())
        assert line["weight_table/mean_abs_advantage"] == pytest.approx(np.abs(batch["advantages"]).mean(), rel=1e-6)
        assert [line[f"weight_table/success_histogram/{k}"] for k in range(M + 1)] == [
            (counts == k).sum() for k in range(M + 1)
        ]
        assert line["weight_table/unscorable"] == 0
        assert line["reward"] == pytest.approx(batch["rewards"].mean())


@pytest.mark.parametrize(
    ("kind", "own", "name", "size", "settings"),
    [
        ("table", "grpo", "grpo-trl", 4, {}),
        ("table", "grpo", "grpo-trl", 4, {"loss_type": "dr_grpo", "num_iterations": 2}),
        ("table", "grpo", "dr-grpo", 4, {"loss_type": "dr_grpo", "scale_rewards": "none"}),
        ("table-rloo", "rloo", "rloo", 5, {"per_device_train_batch_size": 10}),
    ],
    ids=["GRPO", "GRPO, two epochs", "Dr. GRPO", "RLOO"],
)
def test_with_its_own_table_trl_trains_the_same_weights(
    folder: Path, tmp_path: Path, kind: str, own: str, name: str, size: int, settings: dict[str, Any]
) -> None:
    """TRL's own trainer from the same seed, with its own advantages.

    Those of Dr. GRPO for four and of RLOO for five responses are exact in float32, and the weights are equal bit by
    bit. GRPO's own are rounded in other places than the table's.
    """
    settings = {"num_generations": size, "seed": 3, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the loss divides by
        ours = train(folder, tmp_path / "ours", kind, table=table(name, size), **settings)
    theirs = train(folder, tmp_path / "theirs", own, **settings)
    assert np.array_equal(column(ours.seen, "rewards"), column(theirs.seen, "rewards"))
    advantages, of_trl = column(ours.seen, "advantages"), column(theirs.seen, "advantages")
    np.testing.assert_allclose(advantages, of_trl, rtol=2e-6, atol=1e-7)
    start = trl_runs.weights(trl_runs.trainer(folder, tmp_path / "start", own, **settings))
    moved = np.abs(trl_runs.weights(theirs) - start)
    assert moved.max() > 0.05
    differs = np.abs(trl_runs.weights(ours) - trl_runs.weights(theirs))
    if name == "grpo-trl":
        assert differs.max() < 1e-3 * moved.max()
    else:
        assert np.array_equal(advantages, of_trl)
        assert differs.max() == 0


@pytest.fixture(scope="module")
def two_processes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """What each of two processes has seen in 20 steps of three groups of eight, one of them in both processes."""
    output = tmp_path_factory.mktemp("two")
    table("sqrt-r", 8).save(output / "table.json")
    job = {
        "folder": str(folder),
        "output": str(output),
        "table": str(output / "table.json"),
        "num_generations": 8,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 3,
        "loss_type": "dr_grpo",
        "ddp_backend": "gloo",
    }
    (output / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.trl_runs"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command, str(output / "job.json")], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    files = [np.load(output / f"rank-{rank}.npz") for rank in range(2)]
    yield files
    for file in files:
        file.close()


def test_two_processes_share_the_groups(two_processes: list[Any]) -> None:
    first, second = two_processes
    assert np.array_equal(first["weights"], second["weights"])
    kinds = set()
    for step in range(20):
        rewards = first[f"rewards-{step}"].ravel()
        assert len(rewards) == 24
        assert np.array_equal(rewards, second[f"rewards-{step}"].ravel())
        wanted = expected(table("sqrt-r", 8), rewards, size=8)
        together = np.concatenate([part[f"advantages-{step}"] for part in two_processes])
        np.testing.assert_allclose(together, wanted, rtol=1e-6)
        np.testing.assert_allclose(first[f"logged-{step}"], wanted, rtol=1e-6)
        kinds |= set(rewards.reshape(-1, 8).sum(axis=1))
    assert len(kinds) > 3


def test_what_cannot_be_scored_has_no_advantage_and_no_part_in_m(folder: Path, tmp_path: Path) -> None:
    made = train(folder, tmp_path, rewards=["unsure"], table=table("sqrt-r", None), loss_type="dr_grpo", max_steps=4)
    rewards = column(made.seen, "rewards")
    assert 0 < np.isnan(rewards).sum() < len(rewards)
    advantages = column(made.seen, "advantages")
    assert not advantages[np.isnan(rewards)].any()
    np.testing.assert_allclose(advantages, expected(table("sqrt-r", None), rewards), rtol=1e-6)
    unscorable = sum(line.get("weight_table/unscorable", 0) for line in made.state.log_history)
    assert unscorable == np.isnan(rewards).sum()
    with pytest.raises(AdapterError, match=r"TRL: of a group of 4 only . can be scored .* use a curve"):
        train(folder, tmp_path, rewards=["unsure"], table=table("sqrt-r"), loss_type="dr_grpo", max_steps=4)


def test_shaped_rewards_need_a_threshold(folder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"rewards": ["shaped"], "loss_type": "dr_grpo", "max_steps": 2}
    with pytest.raises(AdapterError, match=r"TRL: scores must be 0 or 1.* found 0\.\d+; give a threshold"):
        train(folder, tmp_path, table=table("sqrt-r"), **settings)
    made = train(folder, tmp_path, table=table("sqrt-r"), threshold=0.7, **settings)
    correct = column(made.seen, "rewards") > 0.5  # 0.7 in float32 is below 0.7, and counts
    assert 0 < correct.sum() < len(correct)
    np.testing.assert_allclose(column(made.seen, "advantages"), expected(table("sqrt-r"), 1.0 * correct), rtol=1e-6)


def test_of_two_reward_functions_one_is_correctness(folder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"loss_type": "dr_grpo", "max_steps": 2}
    both = ["shaped", "first_is_prompt"]
    with pytest.raises(
        AdapterError, match=r"there are 2 reward functions.* set correctness to one of shaped, first_is"
    ):
        trl_runs.trainer(folder, tmp_path, rewards=both, table=table("sqrt-r"), **settings)
    with pytest.raises(AdapterError, match=r"correctness must be the name of one reward function .* found 'style'"):
        trl_runs.trainer(folder, tmp_path, rewards=both, table=table("sqrt-r"), correctness="style", **settings)
    with pytest.warns(UserWarning, match="the rewards of shaped are logged and steer nothing"):
        made = train(folder, tmp_path, rewards=both, table=table("sqrt-r"), correctness="first_is_prompt", **settings)
    rewards = np.concatenate([batch["rewards"] for batch in made.seen])
    np.testing.assert_allclose(column(made.seen, "advantages"), expected(table("sqrt-r"), rewards[:, 1]), rtol=1e-6)
    # A threshold is for TRL's weighted sum: 0.5 * 0.7 + 2 * 1 and 0.5 * 0.2 + 2 * 1 are above 2, nothing else is.
    made = train(
        folder, tmp_path, rewards=both, table=table("sqrt-r"), threshold=2.0, reward_weights=[0.5, 2.0], **settings
    )
    rewards = np.concatenate([batch["rewards"] for batch in made.seen])
    np.testing.assert_allclose(column(made.seen, "advantages"), expected(table("sqrt-r"), rewards[:, 1]), rtol=1e-6)


def test_evaluation_is_trl_s_own(folder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "loss_type": "dr_grpo",
        "max_steps": 1,
        "num_generations_eval": 2,
        "per_device_eval_batch_size": 4,
        "seed": 5,
    }
    made = train(folder, tmp_path, table=table("sqrt-r"), **settings)
    made.evaluate()
    (batch,) = [batch for batch in made.seen if not batch["training"]]
    rewards = batch["rewards"].reshape(-1, 2)
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    wanted = centred / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4)
    np.testing.assert_allclose(batch["advantages"], wanted.ravel(), rtol=1e-5, atol=1e-6)
    assert not any(key.startswith("eval_weight_table") for line in made.state.log_history for key in line)


def refusing(kind: str, **changes: Any) -> str:
    """The sentence with which a trainer is refused before it looks for its model, which is not there."""
    base, config = trl_runs.TRAINERS[kind]
    own = {"table": table("sqrt-r"), **{key: changes.pop(key) for key in ("table", "threshold") if key in changes}}
    with pytest.raises(ValueError, match=r"\.$") as refused:
        base("no/such/model", trl_runs.early_letter, config(output_dir="x", use_cpu=True, **changes), **own)
    return str(refused.value)


def test_refusals_come_before_the_model_is_loaded(tmp_path: Path) -> None:
    sentence = refusing("table", num_generations=8, loss_type="dr_grpo")
    assert sentence == (
        "TRL: num_generations=8 draws groups of another size than the 4 that the table is made for; write "
        "num_generations=4, or use a curve (a table without --group-size)."
    )
    assert refusing("table-rloo", num_generations=2, beta=0.0).startswith("TRL RLOO: num_generations=2 draws")
    assert "missing.json: cannot be read" in refusing("table", table=tmp_path / "missing.json")
    assert "threshold must be a finite number" in refusing("table", threshold=float("nan"))


def test_what_is_added_to_the_weight_is_one_warning(folder: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="TRL: loss_type") as caught:
        trl_runs.trainer(folder, tmp_path, table=table("sqrt-r"), beta=0.1)  # TRL's own loss
    said = [str(each.message) for each in caught if "TRL:" in str(each.message)]
    assert len(said) == 1
    assert "TRL: loss_type='dapo' divides by the tokens of all responses" in said[0]
    assert 'write loss_type="dr_grpo".' in said[0]
    assert "TRL: beta=0.1 adds the gradient of a KL divergence" in said[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trl_runs.trainer(folder, tmp_path, table=table("sqrt-r"), loss_type="dr_grpo")
    assert not any("TRL:" in str(each.message) for each in caught)


def test_the_hook_of_a_later_trl_is_used(folder: Path, tmp_path: Path) -> None:
    """A stand-in of a TRL that calls ``_transform_advantages`` before it logs and shares out the advantages."""
    base, config = trl_runs.TRAINERS["grpo"]
    calls: list[int] = []

    class Later(base):
        def _transform_advantages(self, advantages: Any) -> Any:
            return advantages

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)
            output["advantages"] = self._transform_advantages(output["advantages"])
            return output

    from weightopt.adapters.trl import WeightTableMixin

    class Table(WeightTableMixin, Later):
        def _log_again(self, advantages: list[float]) -> None:
            raise AssertionError(f"TRL has logged {len(advantages)} advantages of the table itself")

    trl_runs.TRAINERS["later"] = (Table, config)
    try:
        made = trl_runs.trainer(folder, tmp_path, "later", table=table("sqrt-r"), loss_type="dr_grpo", max_steps=2)
    finally:
        del trl_runs.TRAINERS["later"]
    weigh = made.weigher

    def counted(*args: Any) -> Any:
        calls.append(1)
        return weigh(*args)

    made.weigher = counted
    made.train()
    assert len(calls) == len(made.seen) == 2
    wanted = expected(table("sqrt-r"), column(made.seen, "rewards"))
    np.testing.assert_allclose(column(made.seen, "advantages"), wanted, rtol=1e-6)


def test_a_mixin_alone_is_no_trainer() -> None:
    from weightopt.adapters.trl import WeightTableMixin

    with pytest.raises(AdapterError, match="must also be a GRPOTrainer or RLOOTrainer"):
        WeightTableMixin(table=table("sqrt-r"))


def test_a_class_of_a_user_with_any_signature(tmp_path: Path) -> None:
    from weightopt.adapters.trl import WeightTableMixin

    base, config = trl_runs.TRAINERS["grpo"]

    class Mine(base):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    class Table(WeightTableMixin, Mine):
        pass

    settings = config(output_dir=str(tmp_path), use_cpu=True, num_generations=8)
    for args, kwargs in (((settings,), {}), ((), {"args": settings})):
        with pytest.raises(AdapterError, match="TRL: num_generations=8 draws groups of another size"):
            Table("no/such/model", trl_runs.early_letter, *args, table=table("sqrt-r"), **kwargs)


def test_the_lines_of_the_page_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small model, on a CPU, for one step; the rest is as the page has it."""
    page = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", page, flags=re.S) if "TableGRPOTrainer" in text)
    for shown, here in (
        ("Qwen/Qwen3-0.6B", str(folder)),
        (
            "GRPOConfig(",
            "GRPOConfig('out', max_steps=1, use_cpu=True, bf16=False, max_completion_length=4, report_to=[], ",
        ),
    ):
        assert shown in block
        block = block.replace(shown, here)
    monkeypatch.chdir(tmp_path)
    table("sqrt-r", 16).save("table.json")
    data = trl_runs.Dataset.from_dict({"prompt": list(trl_runs.ALPHABET)})
    names: dict[str, Any] = {"correct": trl_runs.early_letter, "dataset": data}
    exec(block, names)
    (line,) = (line for line in names["trainer"].state.log_history if "weight_table/all_wrong" in line)
    assert sum(line[f"weight_table/success_histogram/{k}"] for k in range(17)) == 2


def test_the_example_runs(tmp_path: Path) -> None:
    """Shortened: three steps from a model that has seen hardly anything."""
    options = ["--output", str(tmp_path / "out"), "--steps", "3", "--supervised-steps", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "examples/trl_countdown.py", *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "TRL:" not in done.stderr, "the settings of the example change nothing"
    success, groups, seconds = done.stdout.splitlines()[-3:]
    assert success.startswith("held-out success 0.")
    assert success.endswith("after the run")
    assert groups.startswith("share of groups without a correct response")
    assert seconds.endswith(" s")
    assert WeightTable.load(tmp_path / "out" / "table.json").group_size == 8
