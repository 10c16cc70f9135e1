"""Figures: every one draws, is byte-identical when repeated, and says what is missing."""

import json

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from figures import command, relative_cost, training, trajectories, weights
from figures.output import write
from theory.weightings import REGISTRY


def metrics(folder, successes):
    folder.mkdir(parents=True)
    lines = [
        {
            "kind": "evaluation",
            "step": step,
            "responses_so_far": 100 * step,
            "success": success,
            "success_low": success - 0.05,
            "success_high": success + 0.05,
            "by_difficulty": {},
            "prompts": 8,
            "samples": 4,
            "temperature": 1.0,
        }
        for step, success in enumerate(successes)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def runs(tmp_path):
    for table, rise in (("grpo", 0.1), ("optimal", 0.2)):
        for seed in (0, 1):
            metrics(tmp_path / "runs" / table / f"seed-{seed}", [0.05 + rise * step + 0.01 * seed for step in range(4)])
    return tmp_path / "runs"


@pytest.mark.parametrize("module", [weights, trajectories, relative_cost])
def test_a_figure_repeats_byte_for_byte(module, tmp_path):
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        frame = module.data()
        written.append([path.read_bytes() for path in write(tmp_path / name, "figure", module.draw(frame), frame)])
    assert written[0] == written[1]
    assert written[0][0].startswith(b"\x89PNG")


def test_the_training_figure_repeats_byte_for_byte(runs, tmp_path):
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        frame = training.data(runs)
        written.append([path.read_bytes() for path in write(tmp_path / name, "figure", training.draw(frame), frame)])
    assert written[0] == written[1]
    assert list(pd.read_csv(tmp_path / "first" / "figure.csv")["seed"].unique()) == ["seed-0", "seed-1"]


def test_plotted_effective_weights_are_the_formula():
    frame = weights.data()
    for name, rows in frame.groupby("weighting"):
        rho = rows["rho"].to_numpy()
        expected = rho * (1 - rho) * REGISTRY[str(name)](rho)
        np.testing.assert_allclose(rows["effective_weight"].to_numpy(), expected, rtol=1e-15)


def test_trajectories_end_at_the_target_and_the_optimum_is_first():
    last = trajectories.data().groupby(["clock", "weighting"]).last()
    # The ODE solver's own tolerance is 1e-12; DOP853's interpolant keeps about 1e-9 of it.
    np.testing.assert_allclose(last["rho"].to_numpy(), trajectories.TARGET, rtol=1e-8)
    for clock in ("regular", "effective"):
        assert last.loc[clock]["time"].min() == pytest.approx(1, abs=1e-12)
        assert last.loc[(clock, "optimal"), "time"] == pytest.approx(1, abs=1e-12)


def test_reconstructions_say_so_in_every_legend():
    figure = weights.draw(weights.data())
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert {label for label in labels if "reconstruction" in label} == {
        "Uniform-R (reconstruction)",
        "Plateau-R (reconstruction)",
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sketch"], "unknown figure 'sketch'"),
        (["training", "--runs", "nowhere"], "no runs"),
        (["weights", "--output", "file"], "cannot make the folder"),
    ],
)
def test_bad_input_is_one_sentence(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    app = typer.Typer()
    app.command()(command.figures)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == []


def test_all_figures_are_drawn_and_what_has_no_runs_is_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(command.figures)
    done = CliRunner().invoke(app, ["--output", "drawn"])
    assert done.exit_code == 0
    assert "training: left out" in done.stderr
    drawn = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert drawn == {f"{name}.{kind}" for name in command.NAMES[:3] for kind in ("png", "csv")}
