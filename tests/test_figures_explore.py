"""The page to play with the theory: its numbers, the command line it shows, and the page driven in a real browser."""

import http.client
import json
import math
import os
import shlex
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from figures.explore.command import explore
from figures.explore.question import FILE, FORMS, Question
from figures.explore.study import OWN, study
from tests.amounts import examples
from tests.browser import browser, found
from theory import catalogue
from theory.clocks import parse
from weightopt import Problem, compare, solve
from weightopt.errors import ProblemError, SolverError
from weightopt.groups.group import GroupProblem
from weightopt.ode import trajectory
from weightopt.table import TableError, WeightTable

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = {
    "first": Question(),
    "spaces and a budget": Question(start=" 0.020 ", clock="effective ", budget="2.50"),
    "bounds": Question(clock="effective", max_weight="3", min_weight="0.1", monotone="decreasing"),
    "ratio": Question(clock="both", max_ratio="4"),
    "table": Question(form="table", clock="regular", max_weight="3"),
    "free table": Question(form="table", clock="refill:8,1,2", group_size="8", shape="free", budget_kind="drift"),
    "read at K/M": Question(form="plug-in", clock="effective", group_size="4", max_weight="2", shape="free"),
    "measured": Question(clock="tokens:lengths of mine.csv", max_ratio="7"),
}


# ---- the command line ----


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_command_writes_what_the_page_saves(name, run, tmp_path):
    (tmp_path / "lengths of mine.csv").write_text("rho,tokens\n0.005,900\n0.1,500\n0.95,150\n", encoding="utf-8")
    question = QUESTIONS[name]
    status, _, said = run(*question.words())
    assert status == 0, said
    assert (tmp_path / FILE).read_bytes() == study(question).file()
    assert run("check", FILE)[0] == 0


def test_options_that_a_form_has_not_are_not_read():
    odd = {"min_weight": "x", "max_weight": "y", "max_ratio": "z", "monotone": "no"}
    assert study(Question(form="table", **odd)).file() == study(Question(form="table")).file()
    assert study(Question(group_size="x", shape="no", budget_kind="no")).file() == study(Question()).file()
    assert "--max-weight" not in Question(form="table", **odd).words()


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (Question(start="a<b>"), "start must be a number, got 'a<b>'"),
        (Question(start="nan"), "start must be a number, got 'nan'"),
        (Question(start="0.95"), "start must be below the target 0.9, got 0.95"),
        (Question(target=""), "target must be a number, got ''"),
        (Question(budget="-1"), "budget must be a positive number, from 1e-30 to 1e30, got -1"),
        (Question(max_weight="0.1"), "max_weight must be at least 1.1236"),
        (Question(form="table", group_size="2.5"), "group_size must be a whole number, got '2.5'"),
        (Question(form="table", group_size="1"), "group_size must be a whole number from 2 to 256, got 1"),
        (Question(clock="sundial"), "clock is not usable: unknown clock 'sundial'"),
        (Question(clock="tokens:none.csv"), "clock file none.csv: cannot be read"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(question, sentence):
    with pytest.raises(ProblemError) as refused:
        study(question)
    assert str(refused.value).startswith(sentence)


WORDS = st.one_of(
    st.floats().map(str),
    st.floats(0.001, 0.999).map(str),
    st.integers(-3, 40).map(str),
    st.sampled_from(["", " ", "none", "0", "1", "1e999", "0x1", "１", "--help", "\0", "<b>"]),
)

NUMBERS = ("start", "target", "budget", "group_size", "min_weight", "max_weight", "max_ratio")


@examples(
    40,
    400,
    form=st.sampled_from(sorted(FORMS)),
    words=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("start", "target", "budget", "group_size", "min_weight", "max_weight", "max_ratio"), WORDS
        ),
    ),
    clock=st.sampled_from(
        ["regular", "effective", "both", "refill:4,1,0", "affine:0,1", "mixed:8", "", "tokens:", "x:y"]
    ),
    monotone=st.sampled_from(["", "decreasing", "increasing", "sideways"]),
)
def test_odd_words_are_answered_or_refused(form, words, clock, monotone):
    try:
        found = study(Question(form=form, clock=clock, monotone=monotone, **words))
    except (ProblemError, TableError, SolverError) as error:
        assert "\n" not in str(error)  # noqa: PT017 which of the three, and what it says, is the case's
        return
    assert WeightTable.from_json(found.file().decode()).checksum == found.table.checksum
    assert found.own.ratio >= 1 - 1e-7


# ---- the numbers ----


@pytest.mark.parametrize("clock", ["regular", "effective"])
def test_curves_are_compared_and_rise_as_they_do_elsewhere(clock):
    found = study(Question(clock=clock, max_weight="2.5"))
    rows = {row.weighting: row.ratio for row in compare(Problem(0.01, 0.9, clock)).rows}
    ratios = {line.name: line.ratio for line in found.lines}
    bounded = solve(Problem(0.01, 0.9, clock, max_weight=2.5))
    assert ratios.pop(OWN) == pytest.approx(bounded.time / found.least, rel=1e-12)
    assert ratios == pytest.approx({name: rows[name] for name in ratios}, rel=1e-12)
    for line in found.lines:
        weighting = bounded.weighting if line.name == OWN else catalogue.WEIGHTINGS[line.name]
        scale = line.weight[0] / float(weighting(np.array([0.01]))[0])
        at = np.arange(0, line.time.size, 40)
        # Simpson's rule on 241 points, with a kink where the bound begins to bind, against an integrator.
        rho = trajectory(lambda x, w=weighting, s=scale: s * w(x), parse(clock), 0.01, line.time[at] * found.least)
        assert rho == pytest.approx(line.success[at], abs=2e-4)
        assert line.time[-1] == pytest.approx(line.ratio)
        # Equal budget: the trapezoidal rule on these points is as good as this.
        assert np.trapezoid(line.weight, line.rho) == pytest.approx(1, rel=2e-3)


def test_tables_are_compared_and_rise_as_they_do_elsewhere():
    found = study(Question(form="table", group_size="8"))
    problem = GroupProblem(Problem(0.01, 0.9, "regular"), 8)
    rows = {row.weighting: row.ratio for row in compare(problem).rows}
    ratios = {line.name: line.ratio for line in found.lines}
    assert ratios.pop(OWN) == pytest.approx(1)
    assert ratios == pytest.approx({name: rows[name] for name in ratios})
    answer = solve(problem)
    assert found.least == answer.time
    own = found.own
    assert own.weight == pytest.approx(answer.weight)
    assert (own.correct[1:], own.wrong[:-1]) == (
        pytest.approx(answer.advantage_correct[1:]),
        pytest.approx(answer.advantage_wrong[:-1]),
    )
    assert math.isnan(own.correct[0])
    assert math.isnan(own.wrong[-1])
    assert own.time[-1] == pytest.approx(1)
    for line in found.lines:  # at equal budget: E[A²] over the way, by enumeration
        rho, time = line.success, line.time * found.least
        k = np.arange(9)
        chance = np.array([[math.comb(8, j) * r**j * (1 - r) ** (8 - j) for j in k] for r in rho])
        square = chance @ (k / 8 * np.nan_to_num(line.correct) ** 2 + (1 - k / 8) * np.nan_to_num(line.wrong) ** 2)
        assert np.trapezoid(square, time) == pytest.approx(1, rel=2e-3)


# ---- the command and the page ----


def test_without_its_library_the_page_says_what_to_install(invoke, monkeypatch):
    monkeypatch.setattr("figures.explore.command.find_spec", lambda _: None)
    done = invoke(explore)
    assert done.exit_code == 2
    assert done.stderr == "weightopt: the page needs panel, which is not installed: pip install 'weightopt[explore]'.\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of a page, served by the command in a folder of its own; and that folder."""
    folder = tmp_path_factory.mktemp("explore")
    (folder / "lengths.csv").write_text("rho,tokens\n0.005,900\n0.1,500\n0.95,150\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        (folder / "said").open("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "weightopt", "explore", "--no-browser"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("weightopt: http://127.0.0.1:"), (folder / "said").read_text(encoding="utf-8")
            yield line.split()[1].rstrip(","), folder
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    said = (folder / "said").read_text(encoding="utf-8").splitlines()
    # What is refused to another site is said; else nothing is.
    assert [
        line for line in said if line.strip() and "elsewhere.example" not in line and "403 GET /ws" not in line
    ] == []


@pytest.fixture(scope="module")
def tab():
    with browser() as page:
        yield page


@pytest.fixture
def opened(tab, served):
    """The page of a new visitor; at the end nothing has gone wrong, and nobody else was asked for anything."""
    address, _ = served
    tab.size(1360, 950)
    tab.open(address)
    tab.wait(found("pre"))
    tab.wait(f"{found('tr.own')}")
    yield tab
    assert tab.errors == []
    hosts = {
        each.partition("://")[2].partition("/")[0] for each in tab.requests if not each.startswith(("data:", "blob:"))
    }
    assert hosts == {address.removeprefix("http://")}
    assert tab.run("window.hacked") is None


def said(tab):
    return tab.run(f"{found('pre')}?.textContent ?? ''")


def until(tab, *words):
    """Wait until the command line holds these words."""
    tab.wait(f"{json.dumps(list(words))}.every(word => ({found('pre')}?.textContent ?? '').includes(word))")


@pytest.mark.slow
def test_a_slider_moves_the_answer(opened):
    before = opened.run(f"{found('.facts dd')}.textContent")
    opened.run(f"{found('.slider.start')}.shadowRoot.querySelector('.noUi-handle').focus()")
    opened.press("ArrowRight", 39)
    until(opened, "--start 0.02 ")
    opened.wait(f"{found('.facts dd')}.textContent !== {json.dumps(before)}")
    expected = solve(Problem(0.02, 0.9, "regular")).time
    assert float(opened.run(f"{found('.facts dd')}.textContent")) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_what_is_saved_and_what_the_command_writes_are_one(opened, served, tmp_path):
    _, folder = served
    opened.keep_downloads(tmp_path)
    opened.choose(".form >>> select", FORMS["table"])
    until(opened, "--group-size 16")
    opened.fill(".dial.group_size >>> input", "12")
    until(opened, "--group-size 12")
    opened.choose(".clock >>> select", "another, or measured")
    until(opened, "tokens:lengths.csv")
    opened.fill(".dial.budget >>> input", "2")
    until(opened, "--budget 2")
    line = shlex.split(said(opened))
    opened.click(".save >>> button")
    saved = tmp_path / FILE
    while not saved.exists() or not saved.stat().st_size:
        opened.run("new Promise(done => setTimeout(done, 20))")
    assert line[0] == "weightopt"
    done = subprocess.run(
        [sys.executable, "-m", *line],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert saved.read_bytes() == (folder / FILE).read_bytes()
    WeightTable.load(saved)


@pytest.mark.slow
def test_bad_values_are_refused_in_one_sentence_and_stay_text(opened):
    hostile = "<img src=x onerror='window.hacked=1'>"
    opened.fill(".dial.start >>> input", hostile)
    opened.wait(found(".refused"))
    text = opened.run(f"{found('.refused')}.textContent")
    assert text == f"Start must be a number, got {hostile!r}."
    assert opened.run(f"{found('.refused')}.children.length") == 0
    assert said(opened) == ""
    assert opened.run(f"{found('.save >>> button')}.disabled")
    opened.fill(".dial.start >>> input", "0.05")
    until(opened, "--start 0.05 ")
    assert opened.run(f"{found('.refused')}") is None
    assert not opened.run(f"{found('.save >>> button')}.disabled")
    opened.choose(".clock >>> select", "another, or measured")
    opened.wait(f"{found('.other')}.getClientRects().length")
    opened.fill(".other >>> input", hostile)
    opened.wait(f"{found('.refused')}?.textContent.startsWith('Clock is not usable')")
    assert hostile[:30] in opened.run(f"{found('.refused')}.textContent")


@pytest.mark.slow
def test_every_form_shows_its_own_controls(opened):
    shown = {"curve": ".dial.max_weight", "table": ".shape", "plug-in": ".dial.group_size"}
    words = {"curve": [], "table": ["--group-size"], "plug-in": ["--plug-in"]}
    for form in ("table", "plug-in", "curve", "plug-in"):
        opened.choose(".form >>> select", FORMS[form])
        opened.wait(f"{found(shown[form])}?.getClientRects().length")
        until(opened, "weightopt solve", *words[form])
    assert opened.run(f"{found('.dial.max_weight')}.getClientRects().length") == 1
    assert opened.run(f"{found('.shape')}.getClientRects().length") == 0
    opened.wait(f"{found('.facts')}.parentElement.textContent.includes('very large groups')")
    rows = opened.run(
        f"[...{found('tr.own')}.parentElement.children].map(row => [row.dataset.name, row.lastChild.textContent])"
    )
    expected = {line.name: f"{line.ratio:.3f}" for line in study(Question(form="plug-in")).lines}
    assert dict(rows) == expected


@pytest.mark.slow
def test_other_sites_and_other_machines_are_not_served(served):
    address, _ = served
    host, port = address.removeprefix("http://").split(":")

    def shakes_hands(origin: str) -> int:
        with closing(http.client.HTTPConnection(host, int(port))) as connection:
            connection.request(
                "GET",
                "/ws",
                headers={
                    "Origin": origin,
                    "Connection": "Upgrade",
                    "Upgrade": "websocket",
                    "Sec-WebSocket-Version": "13",
                    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                    "Sec-WebSocket-Protocol": "bokeh, token",
                },
            )
            with closing(connection.getresponse()) as answer:
                return answer.status

    assert shakes_hands("http://elsewhere.example") == 403
    # Linux lists who listens: 127.0.0.1 is 0100007F there.
    listening = Path("/proc/net/tcp")
    if listening.exists():
        rows = [row.split() for row in listening.read_text().splitlines()[1:]]
        places = {row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == int(port)}
        assert places == {"0100007F"}
