"""Figures: every one draws, is byte-identical when repeated, holds its numbers, and says what is missing."""

import builtins
import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from scipy.integrate import quad
from scipy.stats import t as student
from typer.testing import CliRunner

from figures import (
    advice_over_m,
    all_wrong,
    captions,
    coexistence,
    command,
    cost_map,
    cost_per_loop,
    estimates,
    frames,
    group_loss,
    group_tables,
    histograms,
    output,
    overview,
    population,
    predicted_measured,
    regimes,
    relative_cost,
    simulation,
    style,
    surrogates,
    training,
    trajectories,
    weights,
)
from tests.amounts import some_of
from theory.catalogue import WEIGHTINGS
from weightopt import GroupProblem, Problem, compare, solve

MODULES = {
    "overview": overview,
    "weights": weights,
    "surrogates": surrogates,
    "trajectories": trajectories,
    "relative-cost": relative_cost,
    "cost-map": cost_map,
    "group-tables": group_tables,
    "group-loss": group_loss,
    "population": population,
    "advice-over-m": advice_over_m,
    "cost-per-loop": cost_per_loop,
    "coexistence": coexistence,
    "predicted-measured": predicted_measured,
    "simulation": simulation,
    "regimes": regimes,
    "all-wrong": all_wrong,
    "training": training,
    "histograms": histograms,
}
# Sizes at which a figure takes a fraction of a second; what is not named here is as fast as it is.
TINY = {
    cost_map: {"STARTS": 9, "PRICES": 9, "EXPONENTS": 9},
    group_tables: {"SIZES": (4, 8)},
    group_loss: {"STARTS": 5, "SIZES": (4, 8)},
    population: {
        "PROMPTS": 6,
        "PRESETS": ("from-scratch",),
        "CLOCKS": ("regular",),
        "TARGETS": {"from-scratch": (0.3, 0.9)},
        "SOLVED_FOR": (0.9,),
    },
    advice_over_m: {"STARTS": ("post-sft",), "SIZES": (4, 8), "RESAMPLES": 20},
    simulation: {"PROMPTS": 10, "SEEDS": 2, "SIZES": (8,), "EVERY": 40},
    regimes: {"PROMPTS": 16, "SKILLS": 8, "SEEDS": 2, "STEPS": 60},
    all_wrong: {"PROMPTS": 8, "SEEDS": 2, "STEPS": 40},
    cost_per_loop: {"POINTS": 9, "SIMULATED": 3, "STEPS": 40, "PROMPTS": 16},
    coexistence: {"STEPS": 40, "REPLICAS": 4, "EXPONENTS": 9, "RATIOS": 7},
}


def run_file(folder, successes):
    """A run of M = 4 with an evaluation before every update."""
    folder.mkdir(parents=True)
    lines = []
    for step, success in enumerate(successes):
        lines.append(
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
        )
        lines.append(
            {
                "kind": "step",
                "step": step + 1,
                "responses_so_far": 100 * (step + 1),
                "tokens": 1000 + step,
                "reward": success,
                "success_histogram": [20 - 4 * step, 2, 1, 1, 1 + 4 * step],
                "all_wrong": 0.8,
                "all_right": 0.1,
                "mean_abs_advantage": 0.5,
                "distinct_responses": 10,
                "gradient_norm": 1.0,
                "clipped": False,
                "entropy": 0.5,
                "finished": 1.0,
            }
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for table, rise in (("grpo", 0.1), ("optimal", 0.2), ("my-table", 0.15)):
        for seed in (0, 1):
            successes = [0.05 + rise * step + 0.01 * seed for step in range(4)]
            run_file(folder / table / f"seed-{seed}", successes)
    return folder


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """All modules at their tiny sizes, pictures at a low resolution."""
    with pytest.MonkeyPatch.context() as patch:
        for module, sizes in TINY.items():
            for name, value in sizes.items():
                patch.setattr(module, name, value)
        patch.setattr(style, "DPI", 50)
        patch.setattr(output, "FONT_TYPE", 3)  # embeds faster
        patch.setattr(command, "PAGE_DPI", 50)
        yield


class Frames(dict[str, pd.DataFrame]):
    """The data of every figure, made when it is asked for."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs

    def __missing__(self, name: str) -> pd.DataFrame:
        self[name] = MODULES[name].data(*([self.runs] if name in command.FROM_RUNS else []))
        return self[name]


@pytest.fixture(scope="module")
def tiny_frames(runs):
    return Frames(runs)


def called(*arguments):
    app = typer.Typer()
    app.command()(command.figures)
    return CliRunner().invoke(app, list(arguments))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_name_has_a_module_with_the_same_face():
    assert tuple(MODULES) == command.NAMES
    for name, module in MODULES.items():
        assert module.__name__ == f"figures.{name.replace('-', '_')}"
        assert module.TITLE
        assert len(module.TITLE) < 60


@pytest.fixture(scope="module")
def drawn(runs, tmp_path_factory):
    """Everything drawn by the command, with the page."""
    folder = tmp_path_factory.mktemp("drawn")
    done = called("--output", str(folder / "out"), "--runs", str(runs), "--captions", str(folder / "figures.md"))
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.mark.slow
def test_all_files_are_there(drawn):
    kinds = {"png": b"\x89PNG", "pdf": b"%PDF", "csv": b""}
    expected = {Path("out", f"{name}.{kind}") for name in command.NAMES for kind in kinds}
    pictures = {Path("figures", f"{name}.png") for name in command.NAMES}
    found = contents(drawn)
    assert set(found) == expected | pictures | {Path("figures.md")}
    for path, data in found.items():
        assert data.startswith(kinds.get(path.suffix[1:], b""))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_a_figure_repeats_byte_for_byte(name, drawn, tiny_frames, tmp_path):
    """Data made anew, drawn anew; the caption too."""
    module, frame = MODULES[name], tiny_frames[name]
    for path in output.write(tmp_path, name, module.draw(frame), frame):
        assert path.read_bytes() == (drawn / "out" / path.name).read_bytes(), path.name
    section = captions.Section(name, module.TITLE, module.caption(frame))
    text = captions.page([section]).split(f"## {name}\n\n")[1].strip()
    assert text in (drawn / "figures.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_no_file_says_when_or_by_what_it_was_written(drawn):
    for path, data in contents(drawn).items():
        if path.suffix == ".pdf":
            assert b"CreationDate" not in data
            assert b"Matplotlib" not in data
        if path.suffix == ".png":
            assert b"Software" not in data


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_the_csv_holds_the_plotted_numbers(name, drawn, tiny_frames):
    written = pd.read_csv(drawn / "out" / f"{name}.csv")
    frame = tiny_frames[name].reset_index(drop=True)
    # Twelve digits are written.
    pd.testing.assert_frame_equal(written, frame, check_dtype=False, rtol=1e-11, atol=1e-11)


@some_of("name", [name for name in MODULES if name not in command.FROM_RUNS], 3)
def test_lines_are_drawn_at_the_numbers_of_the_frame(name, tiny_frames):
    """Some column of the frame holds the ordinates of each longer line; means over seeds are tested below."""
    frame = tiny_frames[name]
    figure = MODULES[name].draw(frame)
    known = np.unique(np.concatenate([frame[c].dropna().to_numpy(float) for c in frame.select_dtypes("number")]))
    known = np.union1d(known, [getattr(MODULES[name], "LOWEST", 0)])  # where lower weights are drawn
    lines = [line for axes in figure.axes for line in axes.get_lines() if len(line.get_xdata()) > 4]
    for line in lines:
        y = np.asarray(line.get_ydata(), float)
        y = y[np.isfinite(y)]
        near = np.abs(known[np.clip(np.searchsorted(known, y), 1, known.size - 1) - [[0], [1]]] - y).min(axis=0)
        assert np.max(near, initial=0) < 1e-9


@some_of("name", MODULES, 3)
def test_captions_hold_numbers_of_the_frame_and_follow_them(name, tiny_frames):
    """A caption made from other numbers is another caption: no number in it is typed."""
    module, frame = MODULES[name], tiny_frames[name]
    said = module.caption(frame)
    assert re.search(r"\d\.\d|\d%", said)
    values = frame.select_dtypes("number").columns.intersection(
        ["ratio", "advantage_correct", "spent", "time", "grpo", "mean", "hit", "success", "share", "cost", "measured"]
    )
    assert len(values) > 0
    changed = frame.copy()
    for column in values:
        changed[column] = changed[column] * 1.5 + 0.01
    assert module.caption(changed) != said
    if hasattr(module, "table"):
        table = module.table(frame)
        assert all(isinstance(cell, str) for cell in table.to_numpy().ravel())
        assert table.index.name


def test_caption_numbers_are_those_of_the_solver(tiny_frames):
    solution, rows = compare(Problem(0.01, 0.9, "effective"))
    ratio = {row.weighting: row.ratio for row in rows}
    assert solution.gap < 1e-10
    assert f"{ratio['grpo']:.3f} in effective time" in relative_cost.caption(tiny_frames["relative-cost"])
    assert f"takes {ratio['grpo']:.3f} in effective time" in trajectories.caption(tiny_frames["trajectories"])
    table = trajectories.table(tiny_frames["trajectories"])
    assert table.loc["from 0.01, effective clock", "RLOO"] == f"{ratio['rloo']:.3f}"


def test_plotted_effective_weights_and_advantages_are_the_formulas(tiny_frames):
    for name, rows in tiny_frames["weights"].groupby("weighting"):
        rho = rows["rho"].to_numpy()
        w = WEIGHTINGS[str(name)](rho)
        np.testing.assert_allclose(rows["effective_weight"], rho * (1 - rho) * w, rtol=1e-15)
        # E[A] = 0: what the right gain, the wrong lose.
        mean = rho * rows["advantage_correct"] + (1 - rho) * rows["advantage_wrong"]
        np.testing.assert_allclose(mean, 0, atol=1e-12)


def test_plotted_surrogates_have_the_weighting_as_derivative(tiny_frames):
    for name, rows in tiny_frames["surrogates"].groupby("weighting"):
        rho, h = rows["rho"].to_numpy(), rows["surrogate"].to_numpy()
        for a, b in ((20, 90), (90, 150)):
            kinks = [k for k in WEIGHTINGS[str(name)].kinks if rho[a] < k < rho[b]]
            gain = quad(lambda x, f=WEIGHTINGS[str(name)]: float(f(np.array(x))), rho[a], rho[b], points=kinks or None)[
                0
            ]
            assert h[b] - h[a] == pytest.approx(gain, rel=1e-8)  # adaptive quadrature
        assert rows["spent"].min() == 0
        assert rows["spent"].max() == 1


def test_trajectories_end_at_the_target_and_the_optimum_is_first(tiny_frames):
    last = tiny_frames["trajectories"].groupby(["start", "clock", "weighting"]).last()
    # The ODE solver's own tolerance is 1e-12; DOP853's interpolant keeps about 1e-9 of it.
    np.testing.assert_allclose(last["rho"].to_numpy(), trajectories.TARGET, rtol=1e-8)
    for start in trajectories.STARTS:
        for clock in ("regular", "effective"):
            assert last.loc[start, clock]["time"].min() == pytest.approx(1, abs=1e-12)
            assert last.loc[(start, clock, "optimal"), "time"] == pytest.approx(1, abs=1e-12)


def test_the_cost_map_is_the_comparison_of_the_solver(tiny_frames):
    frame = tiny_frames["cost-map"]
    cells = frames.part(frame, map="price").iloc[[0, 40, 80]]
    for _, cell in cells.iterrows():
        _, rows = compare(Problem(float(cell["x"]), cost_map.TARGET, f"affine:1,{cell['y']!r}"))
        for row in rows[:-1]:
            assert cell[row.weighting] == pytest.approx(row.ratio, rel=1e-9)  # two quadratures
        assert cell["best_ratio"] == min(cell[name] for name in style.NAMES)
    # Each weighting of the family is optimal at home.
    for name, (p, q) in cost_map.HOME.items():
        rho = cost_map._nodes(0.01)
        ratios = cost_map._ratios(0.01, (rho**-p * (1 - rho) ** -q)[None])
        assert ratios[0, style.NAMES.index(name)] == pytest.approx(1, abs=1e-9)


def test_group_tables_are_certified_and_the_plug_in_is_slower(tiny_frames):
    frame = tiny_frames["group-tables"]
    ratio = frame.groupby(["clock", "group_size", "table"])["ratio"].first()
    assert (ratio >= 1 - 1e-9).all()
    # theory.md: the reference values of the prototype.
    assert ratio["effective", 8, "plug-in"] == pytest.approx(1.547, abs=5e-4)
    assert ratio["regular", 4, "plug-in"] == pytest.approx(1.094, abs=5e-4)
    solution = solve(GroupProblem(Problem(0.01, 0.9, "effective"), 8, budget_kind="drift"))
    shown = frames.part(frame, clock="effective", group_size=8, table="convex")["weight"].to_numpy()
    np.testing.assert_allclose(shown, solution.weight, rtol=1e-6, atol=1e-9)


def test_no_weighting_beats_the_bound_of_a_population(tiny_frames):
    frame = tiny_frames["population"]
    assert frame["ratio"].min() > 1 - 1e-9
    shared = frames.lookup(frame, ["weighting", "start", "clock", "target"], "ratio")
    for key, ratio in shared["shared"].items():
        assert ratio <= shared["grpo"][key] + 1e-9
        assert shared["known"][key] <= max(ratio, 1) + 1e-9


def test_the_table_of_advice_is_the_cheapest_of_its_kind_and_its_saving_is_over_the_best_named(tiny_frames):
    frame = tiny_frames["advice-over-m"]
    for _, rows in frames.groups(frame, "start", "cost", "group_size"):
        of = rows.set_index("weighting")["ratio"]
        # Without advantages in uniform groups; a named weighting that has them can be cheaper.
        assert of["bound"] <= of["table"] <= of[["rloo", "grpo", "maxrl"]].min() * (1 + 1e-9)
        named = of.drop(["bound", "table", "saving"]).min()
        assert of["saving"] == pytest.approx(1 - of["table"] / named)
    assert "half of the way" in advice_over_m.caption(frame)


def test_simulated_loops_pay_what_the_clocks_say(tiny_frames):
    drawn = tiny_frames["cost-per-loop"].dropna(subset=["simulated"])
    assert set(drawn["loop"]) == set(cost_per_loop.LOOPS)
    # Five standard errors, of few steps: the largest of 36 independent deviations is below with 1 - 1e-4 at least.
    assert ((drawn["simulated"] - drawn["cost"]).abs() < 5 * drawn["error"] + 1e-12 * drawn["cost"]).all()


def test_shares_of_kinds_add_up_and_the_map_is_the_equilibrium(tiny_frames):
    frame = tiny_frames["coexistence"]
    time = frames.part(frame, part="time")
    np.testing.assert_allclose(time.groupby(["weighting", "step"])["share"].sum(), 1)
    # At rest q r u(π r) is the same for both kinds: r (π r)^-m (1-π)^m = 1 with the other's execution 1.
    cells = frames.part(frame, part="map")
    worse, r, m = (cells[column].to_numpy() for column in ("share", "ratio", "m"))
    np.testing.assert_allclose(np.log(r) * (1 - m), m * np.log(worse / (1 - worse)), atol=1e-9)


def test_predicted_and_measured_are_the_rows_of_the_ladder(tiny_frames, tmp_path, monkeypatch):
    frame = tiny_frames["predicted-measured"]
    rows = pd.read_csv(predicted_measured.ROWS)
    assert set(frame["rung"]) == set(rows["rung"])
    figure = predicted_measured.draw(frame)
    lines = [line for axes in figure.axes for line in axes.get_lines()]
    ends = [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in lines]
    drawn = {(float(x[0]), float(y[0])) for x, y in ends}
    points = frame[~frame["rung"].isin(predicted_measured.IN_ROWS)]
    assert set(zip(points["predicted"], points["measured"], strict=True)) <= drawn
    rows = frame[frame["rung"].isin(predicted_measured.IN_ROWS)]
    assert len(rows)
    across = {x for x, _ in drawn}
    assert {*rows["predicted"], *rows["measured"]} <= across
    # The same τ as on the page of results: of all methods, the reference among them, which is not drawn.
    ranks = pd.read_csv(predicted_measured.ROWS.with_name("ranks.csv"))
    of = ranks[(ranks["rung"] == 2) & (ranks["measure"] == "cost")]["tau"]
    shown = ", ".join(f"{tau:.2f}" for tau in of)
    assert f"Kendall's τ by setting {shown}; rung 3" in predicted_measured.caption(frame)
    monkeypatch.setattr(predicted_measured, "ROWS", tmp_path / "none.csv")
    done = called("predicted-measured", "--output", str(tmp_path))
    assert done.exit_code == 2
    assert "no results of the ladder" in done.stderr
    assert "--runs" not in done.stderr


def test_simulated_points_lie_on_the_theory_of_groups(monkeypatch):
    monkeypatch.setattr(simulation, "PROMPTS", 200)
    monkeypatch.setattr(simulation, "SEEDS", 4)
    monkeypatch.setattr(simulation, "NAMES", ("grpo",))
    frame = simulation.data()
    # Finite steps spread prompts: a bias of order η = 0.02, beside a standard error of about 0.01.
    assert np.max(np.abs(frame["mean"] - frame["theory"])) < 0.04
    assert np.max(np.abs(frame["mean"] - frame["large_group"])) > 0.06


def test_success_of_the_training_figure_is_the_mean_over_seeds(tiny_frames):
    frame = tiny_frames["training"]
    assert list(frame["seed"].unique()) == ["seed-0", "seed-1"]
    rows = frames.part(frame, table="grpo", seed="seed-1")
    assert rows["responses"].tolist() == [0, 100, 200, 300]
    assert rows["tokens"].tolist() == [0, 1000, 2001, 3003]
    lines = [line for line in training.draw(frame).axes[0].get_lines() if line.get_linewidth() > 1]
    np.testing.assert_allclose(np.asarray(lines[0].get_ydata()), [0.055, 0.155, 0.255, 0.355])
    table = training.table(frame)
    # 0.05 + 0.2 step and 0.06 + 0.2 step reach one half after 225 and 220 responses.
    half = student.ppf(0.975, 1) * np.std([225, 220], ddof=1) / np.sqrt(2)
    assert table.loc["Time-optimal", "50%"] == f"222 [{222.5 - half:,.0f}, {222.5 + half:,.0f}]"
    assert table.loc["GRPO", "50%"] == "reached by 0 of 2 seeds"


def test_histograms_pool_what_the_runs_wrote(tiny_frames):
    frame = frames.part(tiny_frames["histograms"], table="optimal", first=2)
    np.testing.assert_allclose(frame["share"], np.array([16, 2, 1, 1, 5]) / 25)
    assert "all-wrong groups from 80% to 32%" in histograms.caption(tiny_frames["histograms"])
    # The best at the end first, as in the figure of training.
    assert list(tiny_frames["histograms"]["table"].unique()) == ["optimal", "my-table", "grpo"]


def test_histograms_of_different_group_sizes_are_refused(tmp_path):
    run_file(tmp_path / "grpo" / "seed-0", [0.1])
    run_file(tmp_path / "grpo" / "seed-1", [0.1])
    path = tmp_path / "grpo" / "seed-1" / "metrics.jsonl"
    path.write_text(path.read_text().replace("[20, 2, 1, 1, 1]", "[20, 2, 1]"))
    done = called("histograms", "--runs", str(tmp_path), "--output", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert "differ in group size" in done.stderr


@pytest.mark.slow
def test_reconstructions_say_so_wherever_they_are_named(tiny_frames):
    for name in (
        "weights",
        "surrogates",
        "trajectories",
        "relative-cost",
        "cost-map",
        "group-loss",
        "population",
        "advice-over-m",
        "regimes",
    ):
        figure = MODULES[name].draw(tiny_frames[name])
        texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        texts += [text.get_text() for axes in figure.axes for text in (*axes.texts, *axes.get_xticklabels())]
        texts.append(figure.get_supxlabel())
        named = [text for text in texts if "Uniform-R" in text or "Plateau-R" in text]
        assert named
        for text in named:
            assert "reconstruction" in text or ("*" in text and any(style.STAR in other for other in texts))


@pytest.mark.parametrize("gap", [0.1, 0.3])
def test_labels_are_spread_apart_and_keep_their_order(gap):
    at = np.array([0.5, 0.1, 0.52, 0.51, 0.9])
    places = style.spread(at, gap)
    assert (np.argsort(places) == np.argsort(at)).all()
    assert np.diff(np.sort(places)).min() >= gap - 1e-12
    assert style.spread(np.array([0.2, 0.8]), 0.1).tolist() == [0.2, 0.8]


def test_unknown_tables_get_colours_of_their_own():
    tints = style.colours(["grpo", "mine", "yours"])
    assert len(set(tints.values())) == 3
    assert tints["grpo"] == style.COLOURS["grpo"]


def test_print_is_dark_enough_on_white():
    for colour in (*style.COLOURS.values(), *style.SPARE):
        red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in style.dark(colour))
        contrast = 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)
        assert contrast >= 4.5  # WCAG AA for text


def test_estimates():
    mean, low, high = estimates.interval(np.array([[1.0], [3.0]]))
    assert mean[0] == 2
    assert high[0] - mean[0] == pytest.approx(student.ppf(0.975, 1))
    assert mean[0] - low[0] == pytest.approx(high[0] - mean[0])
    x = np.array([0.0, 10.0, 20.0])
    assert estimates.crossing(x, np.array([0.0, 0.5, 0.4]), 0.25) == 5
    assert np.isnan(estimates.crossing(x, np.zeros(3), 0.5))
    assert estimates.crossing(x, np.ones(3), 0.5) == 0


@pytest.mark.slow
def test_the_page_links_its_pictures_and_shows_its_tables(drawn):
    text = (drawn / "figures.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.M) == list(command.NAMES)
    links = re.findall(r"\]\((figures/[a-z-]+\.png)\)", text)
    assert links == [f"figures/{name}.png" for name in command.NAMES]
    assert len(re.findall(r"^\| --- \|", text, re.M)) == sum(hasattr(module, "table") for module in MODULES.values())


def test_a_markdown_table():
    table = pd.DataFrame({"a": ["1"], "b": ["2"]}, index=pd.Index(["x"], name="corner"))
    assert captions.markdown(table) == "| corner | a | b |\n| --- | --- | --- |\n| x | 1 | 2 |"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sketch"], "unknown figure 'sketch'"),
        (["training", "--runs", "nowhere"], "no runs"),
        (["histograms", "--runs", "nowhere"], "no runs"),
        (["weights", "--output", "file"], "cannot make the folder"),
        (["weights", "--captions", "page.md"], "leave the names out"),
    ],
)
def test_bad_input_is_one_sentence(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    done = called(*arguments)
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_missing_extra_is_one_sentence_with_the_install_line(tmp_path, monkeypatch):
    for name in ("figures.regimes", "figures.simulated"):
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.partition(".")[0] == "sim":
            raise ModuleNotFoundError("No module named 'numba'", name="numba")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    done = called("regimes", "--output", str(tmp_path))
    assert done.exit_code == 2
    assert done.stderr == (
        "weightopt: figure 'regimes': it needs numba, which is not installed: pip install 'weightopt[sim]'.\n"
    )


@pytest.mark.slow
def test_what_has_no_runs_is_left_out_and_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "NAMES", ("weights", "training"))
    done = called("--output", "drawn", "--captions", "page.md")
    assert done.exit_code == 0
    assert done.stderr.startswith("training: left out, no runs")
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"weights.png", "weights.pdf", "weights.csv"}
    assert "needs training runs" in (tmp_path / "page.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_figure_drawn_alone_repeats_byte_for_byte(tmp_path):
    for again in ("one", "two"):
        assert called("surrogates", "--output", str(tmp_path / again)).exit_code == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert {path.suffix for path in contents(tmp_path / "one")} == {".png", ".pdf", ".csv"}
    assert b"CreationDate" not in (tmp_path / "one" / "surrogates.pdf").read_bytes()
    assert b"Software" not in (tmp_path / "one" / "surrogates.png").read_bytes()


@pytest.mark.slow
def test_files_are_listed_as_json(tmp_path):
    done = called("relative-cost", "--output", str(tmp_path), "--json")
    files = json.loads(done.stdout)["relative-cost"]
    assert [Path(file).suffix for file in files] == [".png", ".pdf", ".csv"]
    assert all(Path(file).exists() for file in files)
