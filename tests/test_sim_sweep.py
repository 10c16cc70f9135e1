"""Sweeps: what a folder holds, runs that are killed and resumed, memory, configurations, the command."""

import fcntl
import itertools
import json
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import typer
from scipy.special import expit, logit
from typer.testing import CliRunner

from sim import command, weighting
from sim.binary import Binary
from sim.config import Config, load_config
from sim.engine import FiniteSample
from sim.errors import UsageError
from sim.skills import Skills, features
from sim.sweep import DAPO_GROUPS, cells, summarise, sweep
from sim.tabular import Tabular
from sim.trajectory import Schedule, run
from theory.catalogue import WEIGHTINGS
from weightopt.catalogue_tables import named_table
from weightopt.cli import main

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs" / "simulate").glob("*.toml"))
SMALL = Config(
    weightings=("grpo", "linear-r"),
    populations=("constant:0.2", "uniform:0.1,0.4"),
    step_sizes=(0.05, 0.2),
    seeds=2,
    prompts=40,
    steps=30,
    group_size=4,
)
TABLES = ("trajectories.csv", "measures.csv", "summary.csv")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but ``run.json``, which states also what changes no number."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


@pytest.mark.slow
def test_a_sweep_and_its_tables(tmp_path):
    summary = sweep(SMALL, tmp_path / "a")
    files = contents(tmp_path / "a")
    assert set(files) == {*TABLES, "cells.jsonl"}
    assert json.loads((tmp_path / "a" / "run.json").read_text())["config"]["prompts"] == 40
    trajectories = pd.read_csv(tmp_path / "a" / "trajectories.csv")
    assert len(trajectories) == 16 * 31
    last = trajectories[trajectories["step"] == 30]
    assert set(last["responses"]) == {30 * 40 * 4}
    assert set(last["groups"]) == {30 * 40}
    assert set(summary["population"]) == {*SMALL.populations, "all"}
    first: Any = summary[(summary["weighting"] == "grpo") & (summary["reached"] == summary["seeds"])]
    assert len(first) > 10
    assert set(first["ratio"].dropna()) == {1.0}
    known: Any = summary.dropna(subset=["mean"])
    assert np.all(known["low"] <= known["mean"] + 1e-12)
    assert np.all(known["mean"] <= known["high"] + 1e-12)
    # The same again, in threads of another number: the same bytes; as parquet: the same numbers.
    sweep(SMALL.model_copy(update={"threads": 2}), tmp_path / "b", format="parquet")
    for name in ("trajectories", "measures", "summary"):
        pd.testing.assert_frame_equal(
            pd.read_parquet(tmp_path / "b" / f"{name}.parquet"),
            pd.read_csv(tmp_path / "a" / f"{name}.csv"),
            check_dtype=False,
            rtol=0,
            atol=0,
        )


@pytest.mark.slow
def test_at_equal_budget_a_common_factor_changes_nothing(tmp_path):
    # Twice the weights, half the time: the budget takes the factor out.
    for factor in (1, 2):
        named_table(WEIGHTINGS["linear-r"], 4, scale=factor).save(tmp_path / f"{factor}.json")
    tables = tuple(str(tmp_path / f"{factor}.json") for factor in (1, 2))
    for engine in ("finite-sample", "mean-field"):
        config = SMALL.model_copy(update={"weightings": tables, "equal_budget": (0.1, 0.9), "engine": engine})
        last = pd.DataFrame(sweep(config, tmp_path / engine)).query("measure == 'success at the end'")
        np.testing.assert_allclose(last["ratio"], 1, rtol=1e-9)


@pytest.mark.slow
def test_seeds_are_common_to_weightings_and_step_sizes(tmp_path):
    sweep(SMALL, tmp_path / "a")
    frame = pd.read_csv(tmp_path / "a" / "trajectories.csv")
    start: Any = frame[(frame["step"] == 0) & (frame["population"] == "uniform:0.1,0.4")]
    assert start.groupby("seed")["success"].nunique().tolist() == [1, 1]
    assert start["success"].nunique() == 2
    assert [cell.seed for cell in cells(SMALL)[:3]] == [0, 1, 0]


def test_where_a_target_is_not_reached_there_is_no_mean():
    rows = itertools.product(("constant:0.2", "uniform:0.1,0.4"), ("grpo", "linear-r"), (0.05, 0.2), (0, 1))
    measured = pd.DataFrame(
        [
            (*row, "updates to mean success 0.9", np.nan if row == ("constant:0.2", "grpo", 0.05, 1) else 2.0)
            for row in rows
        ],
        columns=["population", "weighting", "step_size", "seed", "measure", "value"],
    )
    summary = summarise(SMALL, measured).set_index(["population", "weighting", "step_size"])
    missing: Any = summary.loc[("constant:0.2", "grpo", 0.05)]
    assert (missing["reached"], missing["seeds"]) == (1, 2)
    assert np.isnan(missing["mean"])
    assert np.isnan(summary.loc[("all", "linear-r", 0.05), "ratio"])  # nothing to compare with
    assert summary.loc[("all", "linear-r", 0.05), "mean"] == 2
    assert summary.loc[("uniform:0.1,0.4", "linear-r", 0.05), "ratio"] == 1


@pytest.mark.parametrize(
    ("measure", "values", "interval"),
    [
        ("prompts never lifted", (0.0, 0.02), (0.0, 0.13706)),
        ("success at the end", (0.98, 1.0), (0.86294, 1.0)),
        ("updates to mean success 0.5", (1.0, 3.0), (0.0, 14.706)),
    ],
)
def test_an_interval_ends_where_its_measure_does(measure, values, interval):
    """Of two seeds: mean ± 12.706 times half their difference, cut at the ends of the range."""
    rows = itertools.product(SMALL.populations, SMALL.weightings, SMALL.step_sizes, enumerate(values))
    measured = pd.DataFrame(
        [(*cell, seed, measure, value) for *cell, (seed, value) in rows],
        columns=["population", "weighting", "step_size", "seed", "measure", "value"],
    )
    summary = summarise(SMALL, measured)
    alone: Any = summary[summary["population"] == SMALL.populations[0]].iloc[0]
    assert alone["mean"] == np.mean(values)
    assert (alone["low"], alone["high"]) == pytest.approx(interval, abs=1e-3)


KILLED = """
import os, signal, sys
from pathlib import Path
from sim.config import load_config
from sim.sweep import Reporter, sweep

class Killing(Reporter):
    def at(self, cell, step, success):
        if (cell.index, step) == (1, 100):
            os.kill(os.getpid(), signal.SIGKILL)

sweep(load_config(Path(sys.argv[1])), Path(sys.argv[2]), reporter=Killing())
"""


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    changes = {"weightings": ["grpo", "linear-r"], "seeds": 1, "prompts": 3000, "steps": 400, "record_every": 1}
    config = tmp_path / "sweep.toml"
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in changes.items()) + "save_every = 0\n")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = subprocess.run([sys.executable, "-c", KILLED, str(config), str(killed)], cwd=ROOT, check=False)
    assert process.returncode == -signal.SIGKILL
    checkpoint = killed / "cell-000001.npz"  # the second cell was under way
    assert checkpoint.exists()
    assert not (killed / "summary.csv").exists()
    done = (killed / "cells.jsonl").read_bytes()
    assert done.count(b"\n") == 2  # what it is about, and the first cell
    sweep(load_config(config), killed, resume=True)
    sweep(load_config(config), whole)
    assert (killed / "cells.jsonl").read_bytes().startswith(done)  # not run again
    # A kill can leave a file that was being written beside the one that it was to replace.
    assert {name: data for name, data in contents(killed).items() if not name.endswith(".tmp")} == contents(whole)


class Killed(Exception):
    pass


@pytest.mark.parametrize("kind", ["binary", "tabular", "shared"])
def test_a_checkpoint_is_taken_up_in_the_middle_of_a_cell(kind, tmp_path):
    weights = weighting.read("linear-r", 4)
    schedule = Schedule(steps=40, record_every=2, warm_up=30, warm_up_shape="ramp")

    def world():
        rho, rng = np.full(50, 0.2), np.random.default_rng(1)
        if kind == "binary":
            return Binary(rho, 4, lambda weights: FiniteSample(weights, 0.1))
        if kind == "tabular":
            return Tabular(rho, 4, 0.1, answers=5, right=2, spread=1.0, rng=rng)
        return Skills(rho, features(50, 6, 2, 0.2, rng), 4, 0.1)

    def attempt(checkpoint: Path | None, last: int | None):
        steps = []

        def report(step: int, _: float) -> None:
            steps.append(step)
            if step == last:
                raise Killed

        rng = np.random.default_rng(0)
        record = run(world(), weights, schedule, rng, checkpoint=checkpoint, save_every=0, report=report)
        return record.rows, steps

    whole, _ = attempt(None, None)
    path = tmp_path / "cell.npz"
    for last in (12, 26):
        with pytest.raises(Killed):
            attempt(path, last)
    rows, steps = attempt(path, None)
    assert steps[0] == 26  # saved at 24, before the record of 26 was kept
    np.testing.assert_array_equal(rows, whole)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match="is damaged; remove it and resume"):
        attempt(path, None)


def test_memory_is_that_of_the_population_not_of_the_steps():
    weights = weighting.read("grpo", 16)
    peaks = []
    for steps in (20, 400):
        world = Binary(np.full(20_000, 0.1), 16, lambda weights: FiniteSample(weights, 0.01, threads=1))
        tracemalloc.start()
        run(world, weights, Schedule(steps=steps, record_every=steps // 10), np.random.default_rng(0))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]
    assert peaks[1] < 20_000 * 8 * 5  # a handful of arrays of the population, while a record is made


def test_the_push_on_all_wrong_groups_is_held_back_as_asked():
    weights = weighting.read("reinforce", 4, all_wrong=-1.0)
    start = 1e-9  # every group is all wrong; outcome model: each update adds its factor
    shapes: list[tuple[Literal["hold", "ramp"], float]] = [("hold", 6), ("ramp", 0 + 0.25 + 0.5 + 0.75 + 6)]
    for shape, gained in shapes:
        world = Binary(np.full(3, start), 4, lambda weights: FiniteSample(weights, 0.1, "outcome"))
        schedule = Schedule(steps=10, record_every=10, warm_up=4, warm_up_shape=shape)
        record = run(world, weights, schedule, np.random.default_rng(0))
        assert record["success"][-1] == pytest.approx(expit(logit(start) + 0.1 * gained), rel=1e-9)
        assert record["all_wrong"][-1] == 1
        assert record["never_lifted"][-1] == 1


def test_dapo_counts_the_groups_it_draws(tmp_path):
    config = Config(
        weightings=("grpo", "dapo"), populations=("constant:0.3",), seeds=1, prompts=500, steps=4, group_size=4
    )
    sweep(config, tmp_path / "a")
    last = pd.read_csv(tmp_path / "a" / "trajectories.csv").query("step == 4").set_index("weighting")
    assert last.loc["grpo", "groups"] == 2000
    assert 1.2 < last.loc["dapo", "groups"] / 2000 < 1.5  # 1/(1-0.7⁴-0.3⁴) = 1.33, falling as success rises
    assert last.loc["dapo", "responses"] == 4 * last.loc["dapo", "groups"]
    assert DAPO_GROUPS > 1


@pytest.mark.parametrize("engine", ["mean-field", "large-group"])
def test_engines_without_noise_have_no_spread(engine, tmp_path):
    config = Config(engine=engine, weightings=("grpo",), populations=("constant:0.2",), seeds=2, prompts=3, steps=50)
    summary = sweep(config, tmp_path / "a")
    assert np.all(summary["low"] == summary["high"])
    one: Any = sweep(config.model_copy(update={"seeds": 1}), tmp_path / "b")
    assert one["low"].isna().all()
    assert not one["mean"].isna().all()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_loads_and_runs(path, tmp_path):
    config = load_config(path, {"seeds": 1, "prompts": 30, "steps": 3, "record_every": 1})
    assert len(sweep(config, tmp_path / "a")) > 0


def test_there_are_configurations():
    assert {path.stem for path in CONFIGS} >= {"population", "tabular", "scratch", "sft"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--weighting", "grop"], "unknown weighting 'grop'"),
        (["--weighting", "absent.json"], "weighting 'absent.json': absent.json: cannot be read"),
        (
            ["--weighting", "grpo", "--weighting", "grpo"],
            "'weightings' is ['grpo', 'grpo']: it must be different values",
        ),
        (["--population", "beta:3"], "population 'beta:3' is none of constant:R"),
        (["--group-size", "1"], "config key 'group_size' is 1: it must be at least 2 and at most 65,536"),
        (
            ["--step-size", "nan"],
            "config key 'step_sizes.0' is nan: it must be at least 1e-09 and at most 1e+06",
        ),
        (
            ["--engine", "exact"],
            "config key 'engine' is 'exact': it must be one of 'finite-sample', 'mean-field', 'large-group'",
        ),
        (["--world", "tabular", "--engine", "mean-field"], "engine must be finite-sample"),
        (["--world", "tabular", "--set", "tabular.right=32"], "right must be below answers"),
        (["--set", "tabular.gradient=vanilla", "--world", "tabular", "--step-model", "outcome"], "must be ratio"),
        (["--set", "shared.skills=2"], "skills_per_prompt must be at most skills"),
        (["--engine", "large-group", "--weighting", "ngrpo"], "'ngrpo' is a rule for groups, not a curve"),
        (["--set", "stepsizes=1"], "config key 'stepsizes' is unknown; the nearest is 'step_sizes'"),
        (
            ["--set", "measures.target=0.5"],
            "config key 'measures.target' is unknown; the nearest is 'measures.targets'",
        ),
        (
            ["--set", "record_every=true"],
            "config key 'record_every' is true: it must be a whole number, at least 0 and at most 1,000,000,000",
        ),
        (["--set", "seeds=2"], "config key 'seeds' is given by --set and by an option of its own: give it once"),
        (["--set", "seeds"], "--set 'seeds' is not of the form key=value"),
        (["--set", "measures.targets.x=1"], "config key 'measures.targets' is {'x': 1}: it must be a list"),
        (["--set", "measures=1"], "config key 'measures' is 1: it must be a section of keys, [measures]"),
        (
            ["--set", "equal_budget=[0.9,0.1]"],
            "config: equal_budget must be two numbers in (0, 1), start before target",
        ),
        (
            ["--world", "shared", "--set", "shared.start=sft", "--population", "constant:0.9"],
            "below mean success at the start",
        ),
        (
            ["--prompts", "100000001"],
            "config key 'prompts' is 100000001: it must be at least 1 and at most 100,000,000",
        ),
        (["--world", "tabular", "--prompts", "20000000"], "prompts and tabular.answers ask for 640000000 numbers"),
        (["--config", "absent.toml"], "config 'absent.toml' cannot be read: No such file or directory"),
        (["--config", "README.md"], "config 'README.md' is not TOML"),
        (["--format", "xlsx"], "--format must be csv or parquet, got 'xlsx'"),
        (["--output", "README.md/x"], "cannot be written: Not a directory"),
    ],
)
def test_misuse_is_status_2_and_one_sentence(options, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    result = invoke("--output", tmp_path / "out", "--prompts", 20, "--steps", 2, "--seeds", 1, *options)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.startswith("weightopt: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def invoke(*arguments: object):
    app = typer.Typer()
    app.command()(command.simulate)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_the_command_prints_a_comparison_and_resumes(tmp_path):
    options = ["--output", tmp_path / "out", "--prompts", 50, "--steps", 40, "--seeds", 2, "--step-size", 0.2]
    result = invoke(*options, "--population", "constant:0.2")
    assert result.exit_code == 0, result.stderr
    assert "updates to 0.5" in result.stdout
    assert "…" not in result.stdout
    assert result.stderr.count("mean success") == 8  # a line per run where there is no terminal
    again = invoke(*options, "--population", "constant:0.2", "--resume", "--json")
    assert again.exit_code == 0
    assert again.stderr == ""
    assert {row["measure"] for row in json.loads(again.stdout)["summary"]} >= {"prompts never lifted"}
    other = invoke(*options, "--population", "constant:0.3", "--resume")
    assert other.exit_code == 2
    assert "'populations' was ['constant:0.2'] and is now ['constant:0.3']" in other.stderr
    occupied = invoke(*options)
    assert "is not empty: add --resume to go on" in occupied.stderr
    cells_file = tmp_path / "out" / "cells.jsonl"
    whole = cells_file.read_text()
    lines = whole.splitlines(keepends=True)
    digit = whole.rindex("0.")
    for damaged in (
        lines[:3] + lines[4:],  # removed
        [*lines[:3], lines[4], lines[3], *lines[5:]],  # swapped
        [*lines[:4], *lines[3:]],  # doubled
        [whole[:digit] + "1" + whole[digit + 1 :]],  # edited
        [lines[0].replace('": "', '": "0', 1), *lines[1:]],
    ):
        cells_file.write_text("".join(damaged))
        refused = invoke(*options, "--population", "constant:0.2", "--resume")
        assert refused.exit_code == 2
        assert "cells.jsonl' is damaged: line" in refused.stderr
        assert cells_file.read_text() == "".join(damaged)
    cells_file.write_text(whole[:-9])  # a cell that was being written
    assert invoke(*options, "--population", "constant:0.2", "--resume").exit_code == 0
    assert cells_file.read_text() == whole


def test_a_file_of_success_rates_that_changed_is_noticed(tmp_path):
    rates = tmp_path / "rates.csv"
    rates.write_text("rho\n0.2\n0.3\n")
    options = ["--output", tmp_path / "out", "--population", f"csv:{rates}", "--prompts", 2, "--steps", 5, "--seeds", 1]
    assert invoke(*options).exit_code == 0
    rates.write_text("rho\n0.2\n0.4\n")
    changed = invoke(*options, "--resume")
    assert changed.exit_code == 2
    assert f"'files.csv:{rates}' was 'sha256:" in changed.stderr


def test_two_sweeps_do_not_share_a_folder(tmp_path):
    sweep(SMALL, tmp_path / "a")
    with open(tmp_path / "a" / "cells.jsonl", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="is being written by another process"):
            sweep(SMALL, tmp_path / "a", resume=True)


def test_an_interruption_is_status_130_and_one_sentence(tmp_path, monkeypatch, capsys):
    def interrupted(*_: object, **__: object):
        raise KeyboardInterrupt

    monkeypatch.setattr("sim.sweep.sweep", interrupted)
    monkeypatch.setattr("sys.argv", ["weightopt", "simulate", "--output", str(tmp_path / "out")])
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as stop:
            main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "weightopt: interrupted; --resume goes on where the sweep was.\n"


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["numba", "pyarrow"])
def test_a_missing_extra_is_named_with_the_install_line(missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['weightopt', 'simulate', '--output', 'o']; "
        "from weightopt.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr == f"weightopt: simulation needs {missing}, which is not installed: pip install 'weightopt[sim]'.\n"
    )


def test_the_command_imports_nothing_heavy():
    code = (
        "import sys, sim.command; print(*(sys.modules.keys() & {'numba', 'numpy', 'pandas', 'rich.progress', 'scipy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
