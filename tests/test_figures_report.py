"""The report of runs: its numbers, what it refuses, and the page itself, driven in a real browser."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from figures.report import command, page
from figures.report.runs import MOST_ROLLOUTS, ReportError, read_run, run_folders
from figures.report.stretches import MOST, edges, reduced, shares, spans
from rl.records.metrics import METRICS_FILE, TIMING_FILE, read_metrics, read_timing
from tests.browser import browser
from tests.report_runs import record_run
from theory import catalogue
from weightopt.catalogue_tables import named_table
from weightopt.table import WeightTable

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'> {{7*7}} <b>bold</b> \u202e"
)
SIZE = 8


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of each of two tables, in folders as a comparison has them."""
    folder = tmp_path_factory.mktemp("compared")
    for name, rate in (("grpo", 0.08), ("linear-r", 0.12)):
        table = folder / f"{name}.json"
        named_table(catalogue.WEIGHTINGS[name]).save(table)
        for seed in range(2):
            run = folder / "runs" / name / f"seed-{seed}"
            record_run(run, table, seed=seed, rate=rate, group_size=SIZE, response=lambda k: f"{k} {HOSTILE}")
    return folder / "runs"


@pytest.fixture(scope="module")
def document(runs):
    return page._document([read_run(each, rollouts=100) for each in run_folders([runs])])


# ---- stretches ----


@given(st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9), st.just(float("nan"))), max_size=900), st.integers(1, 250))
def test_stretches_keep_mean_and_extremes(values, most):
    found = reduced(values, most)
    numbers = np.array([np.nan if value is None else value for value in values], dtype=float)
    if not np.isfinite(numbers).any():
        assert found is None
        return
    assert found is not None
    ends = edges(len(values), most)
    assert len(found["mean"]) == min(len(values), most)
    assert np.all(np.diff(ends) >= 1)
    assert np.ptp(np.diff(ends)) <= 1
    low, high = (np.array([np.nan if x is None else x for x in found[name]], dtype=float) for name in ("low", "high"))
    # Six digits are kept.
    assert np.nanmin(low) == pytest.approx(np.nanmin(numbers), rel=1e-5)
    assert np.nanmax(high) == pytest.approx(np.nanmax(numbers), rel=1e-5)
    for mean, begin, end in zip(found["mean"], ends[:-1], ends[1:], strict=True):
        part = numbers[begin:end][np.isfinite(numbers[begin:end])]
        assert (mean is None) == (part.size == 0)
        if part.size:
            assert mean == pytest.approx(float(np.sum(part)) / part.size, rel=1e-5, abs=1e-5 * np.abs(part).max())


def test_a_short_series_is_drawn_as_it_is():
    assert reduced([1.5, None, 3.0]) == {key: [1.5, None, 3.0] for key in ("mean", "low", "high")}
    assert spans([1, 2, 3]) == ([1, 2, 3], [1, 2, 3])
    assert spans(range(1, 401), 200) == (list(range(1, 401, 2)), list(range(2, 401, 2)))


def test_columns_of_the_heat_map_are_shares():
    counts = np.random.default_rng(0).integers(0, 9, (777, 5)).astype(float)
    found = np.array(shares(counts))
    assert found.shape == (5, MOST)
    assert found.sum(axis=0) == pytest.approx(np.ones(MOST), abs=1e-5)
    assert shares(np.zeros((0, 5))) == []


# ---- what is read ----


def test_the_costs_of_an_evaluation_are_those_recorded(runs):
    folder = runs / "grpo" / "seed-1"
    found = read_run(folder, rollouts=10)["evaluations"]
    metrics, timing = read_metrics(folder / METRICS_FILE), read_timing(folder / TIMING_FILE)
    for i, record in enumerate(metrics.evaluations):
        before = [each for each in timing if each.step <= record.step]
        seconds = sum(each.sampling + each.verifying + each.learning + each.hand_over for each in before)
        assert found["seconds"][i] == pytest.approx(seconds, abs=1e-3)
        assert (found["responses"][i], found["tokens"][i]) == (record.responses_so_far, record.tokens_so_far)
        assert found["measures"]["success"][i] == [record.success, record.success_low, record.success_high]
        assert found["measures"]["pass@4"][i] == list(record.pass_at["4"])


def test_runs_that_differ_in_their_seed_alone_are_one_setting(document, runs):
    assert [setting["table"] for setting in document["settings"]] == ["grpo", "linear-r"]
    assert [run["setting"] for run in document["runs"]] == [0, 0, 1, 1]
    mean = document["settings"][1]["mean"]
    values = np.array(
        [
            [each.success for each in read_metrics(runs / "linear-r" / f"seed-{seed}" / METRICS_FILE).evaluations]
            for seed in range(2)
        ]
    )
    for i, column in enumerate(values.T):
        expected = stats.ttest_1samp(column, 0).confidence_interval(0.95)
        assert mean["measures"]["success"][i] == pytest.approx([column.mean(), expected.low, expected.high])


def test_the_differences_are_all_and_nothing_else(document):
    names = [row[0] for row in document["differences"]]
    assert names == ["seed", "table"]
    assert document["differences"][0][1:] == ["0", "1", "0", "1"]


def test_another_learning_rate_is_another_setting(tmp_path):
    table = tmp_path / "grpo.json"
    named_table(catalogue.WEIGHTINGS["grpo"]).save(table)
    for rate in (0.001, 0.002):
        record_run(tmp_path / f"run-{rate}", table, steps=10, changes={"optimizer": {"learning_rate": rate}})
    found = page._document([read_run(tmp_path / f"run-{rate}", rollouts=0) for rate in (0.001, 0.002)])
    assert [setting["name"] for setting in found["settings"]] == [
        "GRPO, learning_rate 0.001",
        "GRPO, learning_rate 0.002",
    ]
    assert len({setting["colour"] for setting in found["settings"]}) == 2


def test_the_share_of_each_k_is_that_of_its_responses(document, runs):
    run = document["runs"][2]
    table = WeightTable.load(runs.parent / "linear-r.json").for_group(SIZE)
    assert table.advantage_correct is not None
    assert table.advantage_wrong is not None
    total = np.zeros(SIZE + 1)
    for step in read_metrics(runs / "linear-r" / "seed-0" / METRICS_FILE).steps:
        for k, groups in enumerate(step.success_histogram):
            for response in range(SIZE):
                advantage = table.advantage_correct[k] if response < k else table.advantage_wrong[k]
                total[k] += groups * abs(advantage)
    assert run["share"] == pytest.approx(total / total.sum())


def test_a_table_that_was_changed_is_not_shown(tmp_path):
    table = tmp_path / "table.json"
    named_table(catalogue.WEIGHTINGS["grpo"]).save(table)
    record_run(tmp_path / "run", table, steps=5)
    assert [each["name"] for each in read_run(tmp_path / "run", rollouts=1)["tables"]] == ["grpo"]
    named_table(catalogue.WEIGHTINGS["sqrt-r"]).save(table)
    found = read_run(tmp_path / "run", rollouts=1)
    assert found["tables"] == []
    assert "table.json is not there any more, or has been changed" in found["tables_missing"]


def test_rollouts_are_whole_groups_over_all_the_run(runs):
    found = read_run(runs / "grpo" / "seed-0", rollouts=5 * SIZE)["rollouts"]
    groups = [each["step"] for each in found[::SIZE]]
    assert len(found) <= 5 * SIZE
    assert all(found[i]["step"] == groups[i // SIZE] for i in range(len(found)))
    assert groups[0] == 1
    assert groups[-1] > 30


@pytest.mark.slow
def test_a_long_run_makes_a_short_page(tmp_path):
    table = tmp_path / "grpo.json"
    named_table(catalogue.WEIGHTINGS["grpo"]).save(table)
    record_run(tmp_path / "run", table, steps=3000, rate=0.003, every=1000)
    run = read_run(tmp_path / "run", rollouts=MOST_ROLLOUTS)
    # What a browser has to draw does not grow with the run: this is what opens 10,000 steps at once.
    assert {len(values) for each in run["series"].values() for values in each.values()} == {MOST}
    assert np.array(run["histogram"]).shape == (9, MOST)
    assert len(run["rollouts"]) <= MOST_ROLLOUTS
    norms = [step.gradient_norm for step in read_metrics(tmp_path / "run" / METRICS_FILE).steps]
    assert max(run["series"]["gradient_norm"]["high"]) == pytest.approx(max(norms), rel=1e-5)
    without = {key: value for key, value in run.items() if key != "rollouts"}
    assert len(json.dumps(without)) < 300_000


# ---- what is refused ----


def spoil(folder, name, text):
    (folder / name).write_text(text)


REFUSED = {
    "nothing there": (lambda _: None, "holds no run"),
    "no JSON": (lambda run: spoil(run, "run.json", "{"), "run.json is not that of a run"),
    "another JSON": (lambda run: spoil(run, "run.json", "[1]"), "run.json is not that of a run"),
    "a group of a million": (
        lambda run: spoil(
            run, "run.json", (run / "run.json").read_text().replace('"group_size": 8', '"group_size": 10000000')
        ),
        "run.json is not that of a run",
    ),
    "no metrics": (lambda run: (run / METRICS_FILE).unlink(), "has recorded nothing yet"),
    "a bad line": (lambda run: spoil(run, METRICS_FILE, "{}\n"), "line 1 is no record of a step"),
    "groups of another size": (
        lambda run: spoil(
            run, "run.json", (run / "run.json").read_text().replace('"group_size": 8', '"group_size": 4')
        ),
        "are not of 4 responses",
    ),
    "bad rollouts": (lambda run: spoil(run, "rollouts.jsonl", "[]\n"), "rollouts.jsonl: line 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_run_is_refused_in_one_sentence(name, tmp_path, invoke):
    pytest.importorskip("plotly")
    change, sentence = REFUSED[name]
    table = tmp_path / "grpo.json"
    named_table(catalogue.WEIGHTINGS["grpo"]).save(table)
    run = tmp_path / "run"
    if name == "nothing there":
        run.mkdir()
    else:
        record_run(run, table, steps=2)
        change(run)
    result = invoke(command.report, run, "--output", tmp_path / "report.html")
    assert result.exit_code == 2
    assert re.fullmatch(r"weightopt: .*\.\n", result.stderr)
    assert sentence in result.stderr
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ReportError, match="holds no run"):
        run_folders([tmp_path / "absent"])


def test_without_plotly_the_install_line_is_given(tmp_path):
    code = "import sys, importlib.util as u; find = u.find_spec; "
    code += "u.find_spec = lambda name, *more: None if name == 'plotly' else find(name, *more); "
    code += f"sys.argv[1:] = ['report', '{tmp_path}']; import runpy; runpy.run_module('weightopt', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr == "weightopt: the report needs plotly, which is not installed: pip install 'weightopt[report]'.\n"
    )


# ---- the page ----


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    """The page of four runs."""
    pytest.importorskip("plotly", reason="plotly is not installed: the extra 'report' has it")
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page.write_page(run_folders([runs])), encoding="utf-8")
    return path


def test_the_policy_names_the_scripts_and_forbids_the_rest(written):
    html = written.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)
    sums = {f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in scripts}
    assert len(scripts) == 2
    assert policy[1].startswith("default-src 'none'; ")
    assert set(re.findall(r"'sha256-[^']*'", policy[1])) == sums
    assert "unsafe-eval" not in policy[1]
    assert "script-src 'unsafe-inline'" not in policy[1]
    outside = html.replace(scripts[0], "").replace(scripts[1], "")
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", outside)
    assert html.count("</script>") == 3
    assert "window.hacked" in outside  # it is there, as data
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert data is not None
    assert "<" not in data[1]
    assert HOSTILE in json.loads(data[1])["runs"][0]["rollouts"][0]["response"]


def test_the_same_runs_give_the_same_bytes(written, runs):
    assert page.write_page(run_folders([runs])) == written.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tab():
    with browser() as opened:
        yield opened


@pytest.fixture
def opened(tab, written):
    tab.size(1280, 900)
    tab.open(written.as_uri())
    tab.wait("document.querySelector('#success-plot .main-svg')")
    yield tab
    assert tab.errors == []
    assert {address.partition(":")[0] for address in tab.requests} <= {"file", "data", "blob"}
    assert [each for each in tab.requests if each.startswith("file:")] == [written.as_uri()]
    assert tab.run("window.hacked") is None


PLOTS = (
    *("success", "histogram", "silent", "weights", "advantages", "share", "advantage"),
    *("mismatch", "length", "throughput", "learning"),
)


@pytest.mark.slow
def test_every_figure_is_drawn(opened):
    opened.run("window.dispatchEvent(new Event('beforeprint'))")
    for name in PLOTS:
        opened.wait(f"document.querySelector('#{name}-plot .main-svg')")
        title = opened.run(
            f"[...document.querySelectorAll('#{name}-plot .g-ytitle, #{name}-plot .g-xtitle')].map(e => e.textContent)"
        )
        assert len(title) == 2
        assert all(title)
    assert opened.run("document.querySelectorAll('#success-plot .scatterlayer .trace').length") == 6
    assert opened.run("document.querySelectorAll('.empty').length") == 0
    # The axis is logarithmic and says whole numbers, a power of ten among them, and not the digit of each tick alone.
    ticks = opened.run("[...document.querySelectorAll('#weights-plot .ytick text')].map(e => e.textContent)")
    assert len(ticks) >= 2
    assert [float(tick) for tick in ticks] == sorted({float(tick) for tick in ticks})


@pytest.mark.slow
def test_figures_wait_until_they_are_near(opened):
    assert opened.run("document.querySelector('#learning-plot .main-svg')") is None
    opened.middle("#learning-plot")
    opened.wait("document.querySelector('#learning-plot .main-svg')")


AXES = {
    "responses": "training responses sampled",
    "tokens": "training tokens sampled",
    "updates": "updates of the weights",
    "seconds": "training time, evaluations left out (s)",
}


@pytest.mark.slow
@pytest.mark.parametrize("cost", AXES)
def test_the_axis_can_be_switched(cost, opened, document):
    opened.choose("#lines", "each")
    opened.choose("#success-against", cost)
    opened.wait(f"document.querySelector('#success-plot .g-xtitle').textContent === {json.dumps(AXES[cost])}")
    drawn = opened.run(
        "document.getElementById('success-plot').data.filter(t => t.mode === 'lines+markers').map(t => t.x)"
    )
    assert drawn == [run["evaluations"][cost] for run in document["runs"]]


@pytest.mark.slow
def test_hovering_shows_numbers(opened):
    opened.choose("#lines", "each")
    opened.wait("document.querySelectorAll('#success-plot .points path').length > 4")
    opened.middle("#success-plot")
    x, y = opened.run(
        "(() => { const all = document.querySelectorAll('#success-plot .points path');"
        "const r = all[5].getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    opened.move(x - 3, y - 3)
    opened.move(x, y)
    opened.wait("document.querySelector('#success-plot .hovertext')")
    text = opened.run("document.querySelector('#success-plot .hovertext').textContent")
    assert re.search(r"\d+\.\d%.*responses sampled, step \d+", text)


@pytest.mark.slow
def test_a_setting_can_be_switched_off(opened):
    opened.click("#legend input")
    opened.wait("document.querySelectorAll('#success-plot .scatterlayer .trace').length === 3")
    names = "[...document.querySelectorAll('#rollout-rows td:nth-child(2)')]"
    assert opened.run(f"{names}.every(e => e.textContent.startsWith('Linear-R'))")
    opened.click("#legend input")
    opened.wait("document.querySelectorAll('#success-plot .scatterlayer .trace').length === 6")


@pytest.mark.slow
def test_hostile_responses_stay_text_and_can_be_searched(opened):
    rows = "document.querySelectorAll('#rollout-rows tr').length"
    assert opened.run(rows) == 40
    assert (
        opened.run("document.querySelectorAll('#rollout-rows img, #rollout-rows script, #rollout-rows b').length") == 0
    )
    assert HOSTILE in opened.run("document.querySelector('#rollout-rows td:nth-child(4)').textContent")
    opened.write("#rollout-search", "17+17=")
    opened.wait(
        "[...document.querySelectorAll('#rollout-rows td:nth-child(3)')].every(e => e.textContent === '17+17=')"
    )
    found = opened.run(rows)
    assert 0 < found <= 4 * SIZE
    opened.choose("#rollout-verdict", "correct")
    opened.wait(
        "[...document.querySelectorAll('#rollout-rows td:nth-child(5)')].every(e => e.textContent === 'correct')"
    )
    assert opened.run(rows) < found


def test_hostile_names_stay_text(tmp_path, tab):
    pytest.importorskip("plotly")
    import dataclasses

    table = tmp_path / "hostile.json"
    dataclasses.replace(named_table(catalogue.WEIGHTINGS["grpo"]), name=HOSTILE, label=HOSTILE).save(table)
    record_run(tmp_path / "run", table, steps=10)
    path = tmp_path / "report.html"
    path.write_text(page.write_page([tmp_path / "run"]), encoding="utf-8")
    tab.size(1280, 900)
    tab.open(path.as_uri())
    tab.wait("document.querySelector('#success-plot .main-svg')")
    tab.run("window.dispatchEvent(new Event('beforeprint'))")
    tab.wait("document.querySelector('#learning-plot .main-svg')")
    assert tab.run("window.hacked") is None
    assert tab.run("document.querySelectorAll('main img, main b').length") == 0
    assert HOSTILE in tab.run("document.querySelector('#legend').textContent")
    assert tab.errors == []


@pytest.mark.slow
@pytest.mark.parametrize("lines", [0, 1, 3])
def test_a_run_that_has_just_begun_has_a_page(lines, tmp_path, tab):
    pytest.importorskip("plotly")
    table = tmp_path / "grpo.json"
    named_table(catalogue.WEIGHTINGS["grpo"]).save(table)
    run = tmp_path / "run"
    record_run(run, table, steps=5, rollouts=False, timing=False)
    whole = (run / METRICS_FILE).read_bytes().splitlines(keepends=True)
    # The last line is being written.
    (run / METRICS_FILE).write_bytes(b"".join(whole[:lines]) + whole[lines][:40])
    path = tmp_path / "report.html"
    path.write_text(page.write_page([run]), encoding="utf-8")
    tab.size(1280, 900)
    tab.open(path.as_uri())
    tab.run("window.dispatchEvent(new Event('beforeprint'))")
    tab.wait("document.querySelector('#weights-plot .main-svg')")
    said = tab.run("[...document.querySelectorAll('.empty')].map(e => e.textContent).join(' ')")
    assert ("No evaluation has been recorded yet." in said) == (lines == 0)
    assert ("No step has been recorded yet." in said) == (lines < 2)
    assert "training.rollout_share = 0.01" in said
    assert tab.run("document.querySelector('#success-against option[value=seconds]').disabled") == (lines == 0)
    assert tab.errors == []


@pytest.mark.slow
def test_a_phone_shows_it_without_sliding_sideways(opened):
    opened.size(390, 844)
    opened.run("window.dispatchEvent(new Event('beforeprint'))")
    opened.wait("document.querySelector('#learning-plot .main-svg')")
    opened.wait("document.documentElement.scrollWidth <= 390")
