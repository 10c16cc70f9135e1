"""Odd calls that write, show and check table files: nothing forged passes, and a refusal is one sentence."""

import contextlib
import copy
import functools
import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.integrate import simpson
from scipy.special import expit, logit

from tests.independent import LAWS, advantages_of
from tests.odd_calls import COUNTS, LONGEST, NONSENSE, Run, empty_folder, ends, fuzz, outcome, run, words
from theory import catalogue


@pytest.fixture(scope="module", autouse=True)
def folder():
    with empty_folder() as path:
        Path("file.csv").write_text("rho,tokens\n0.01,900\n0.2,1400\n0.9,600\n")
        for name in FILES:
            table_file(name)
        yield path


NAMES = [*catalogue.EVERYTHING, *(f"{name}:" for name in catalogue.FAMILIES), *catalogue.FAMILIES]
PARAMETERS = ("", "0", "1", "2", "0.5", "-1", "1e9", "nan", "0.3,0.06", "1,1", "20,-20", "1,", "x", "1_0", "0.3,0.3")
PARAMETERS += (",", "3,0,2", "5,4,3", "1e-9", "0.49", "inf", "4096", "65536", "1e400", "2.5", "0x10", "9" * 400)
SIZES = ("0", "1", "65537", "x", "2.5", "")


def checksum_of(document: dict) -> str:
    """What a table file's last line must be: sha256 over everything else, canonically."""
    rest = {key: value for key, value in document.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@st.composite
def tables(draw):
    name = draw(st.sampled_from(NAMES))
    if name.endswith(":"):
        name += draw(st.sampled_from(PARAMETERS))
    elif draw(st.integers(0, 19)) == 0:
        name = draw(st.sampled_from([*NONSENSE, name + ":1", name.upper(), f" {name}"]))
    options: dict[str, Any] = {"weighting": name}
    if draw(st.booleans()):
        options["group_size"] = draw(st.one_of(st.integers(2, 12), st.sampled_from(SIZES)))
    if draw(st.integers(0, 2)) == 0:
        options |= dict(zip(("start", "target"), draw(ends()), strict=True))
        options["budget"] = draw(st.sampled_from(["1", "0.5", "1e9", *NONSENSE]))
        if draw(st.integers(0, 4)) == 0:
            options[draw(st.sampled_from(["start", "target"]))] = draw(st.sampled_from(NONSENSE))
        if draw(st.integers(0, 9)) == 0:
            del options[draw(st.sampled_from(["start", "target", "budget"]))]
    for rule in ("all_wrong", "all_right"):
        if draw(st.integers(0, 3)) == 0:
            options[rule] = draw(st.sampled_from(["-0.5", "0", "3", *NONSENSE]))
    return options


@fuzz("tables", 60, 1500, tables())
def test_tables(options):
    ended = run("table", *words(options), "--json")
    answered = outcome("tables", ended)
    assert ended.status != 1
    name = options["weighting"]
    if name in catalogue.WEIGHTINGS and set(options) <= {"weighting", "group_size"}:
        assert answered == (str(options.get("group_size", 2)) not in SIZES), ended
    if not answered:
        return
    found = json.loads(ended.out)
    assert found["checksum"] == checksum_of(found)
    rho, weight = np.array(found["rho"]), np.array(found["weight"])
    for rule in ("all_wrong", "all_right"):
        if rule in options:
            assert found[f"{rule}_advantage"] == float(options[rule])
    scale = 1.0
    if "budget" in options:
        if found["group_size"] is None and rho[0] <= float(options["start"]) and float(options["target"]) <= rho[-1]:
            theta = np.linspace(logit(float(options["start"])), logit(float(options["target"])), 4001)
            dense = expit(theta)
            between = np.exp(np.interp(theta, logit(rho), np.log(weight)))
            spent = float(simpson(between * dense * (1 - dense), x=theta))
            # Tables are linear between points in log-log, which the steps of CurveRL are not.
            assert spent == pytest.approx(float(options["budget"]), rel=0.05 if "curverl" in name else 2e-3)
        scale = found["provenance"]["scale"]
    if name in LAWS:
        factor = found["group_size"] / (found["group_size"] - 1) if name == "rloo" and found["group_size"] else 1.0
        assert weight == pytest.approx(scale * factor * LAWS[name](rho), rel=1e-12)
    if found["group_size"] is None:
        assert np.min(weight) > 0
        return
    assert rho == pytest.approx(np.arange(1, found["group_size"]) / found["group_size"], rel=1e-15)
    correct, wrong = np.array(found["advantage_correct"]), np.array(found["advantage_wrong"])
    assert (correct[0], wrong[-1]) == (0, 0)
    assert (correct - wrong)[1:-1] == pytest.approx(weight, rel=1e-12, abs=1e-12 * float(np.max(np.abs(correct))))
    if found["name"] not in catalogue.SCHEMES and found["provenance"]["weighting"].partition(":")[0] not in (
        *("w-reinforce", "pkpo", "pass-at-k-groups"),
    ):
        centred = advantages_of(weight)
        assert correct[1:-1] == pytest.approx(centred[0][1:-1], rel=1e-12)
        assert wrong[1:-1] == pytest.approx(centred[1][1:-1], rel=1e-12)


# Table files ----------------------------------------------------------------------------------------------------------


WAY = "--start 0.05 --target 0.8 --clock"
FILES = {
    "named curve": "table --weighting plateau-r --all-wrong -0.5",
    "named table": "table --weighting grpo --group-size 4",
    "scheme": "table --weighting ngrpo --group-size 5 --budget 2 --start 0.1 --target 0.8",
    "curve": f"solve {WAY} effective",
    "bounded": f"solve {WAY} affine:1,1 --max-weight 2",
    "lipschitz": f"solve {WAY} effective --lipschitz 0.3",
    "bins": f"solve {WAY} regular --bins 0.1,0.5",
    "measured": f"solve {WAY} tokens:file.csv --monotone decreasing",
    "plug-in": f"solve {WAY} regular --group-size 4 --plug-in",
    "group": f"solve {WAY} effective --group-size 5",
    "uncentred": f"solve {WAY} regular --group-size 3 --uncentred --budget-kind advantage-variance --shape free",
    "range": "solve --start-range 0.1 0.2 --target 0.8 --clock regular --group-size 3",
}
DRAWN = [*FILES, *("named table", "scheme", "plug-in", "group", "uncentred") * 3]  # the short ones more often
ITERATIVE = ("group", "uncentred", "range")  # certified from their weights, which the time fixes to its root only
JUNK = (None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, 5e-324, 10**30, 10**400, 2**63, math.nan, math.inf, "", "x")
JUNK += ("0.5", "\u202e", "\x00", "\ud800", [], {}, [[]], {"": None}, [1, "x"], {"rho": [], "value": []}, "a\nb", [0.5])
JUNK += ({"rho": [0.01, 0.9], "value": [1, 1]}, "x" * 300, "solved", "limit", "given", "regular", "mixed:2", "csv:x", 9)
WILD = ("", "null", "[]", "1", '"x"', "[" * 100_000, '{"a":' * 5000, "9" * 5000, "\ufeff{}")


@functools.cache
def table_file(name: str) -> str:
    ended = run(*FILES[name].split(), "--output", "file.json")
    assert ended.status == 0, ended
    return Path("file.json").read_text()


class Mutated(NamedTuple):
    """A table file's name and bytes after some mutation, and what was done to it."""

    name: str
    data: bytes
    story: str

    def __repr__(self) -> str:  # the bytes would be too long to print
        return f"{self.name}: {self.story}"


@st.composite
def edits(draw, document: Any) -> str:
    """Change one thing somewhere in a document, in place; what was done."""
    where = ""
    node: Any = document
    while True:
        keys = list(node) if isinstance(node, dict) else [*range(min(len(node), 3)), len(node) - 1]
        key = draw(st.sampled_from(keys))
        inner: Any = node[key]
        where += f"[{key!r}]"
        if not (isinstance(inner, dict | list) and inner) or draw(st.integers(0, 3)) == 0:
            break
        node = inner
    kind = draw(st.sampled_from(["junk", "junk", "junk", "nudge", "nudge", "delete", "again", "text", "nest"]))
    if kind == "delete":
        del node[key]
    elif kind == "again" and isinstance(node, list):
        node.insert(key, inner)
    elif kind == "again":
        node[draw(st.sampled_from([f"{key}s", "", "checksum", "a\nb", "rates", "last_start", "curve"]))] = inner
    elif kind == "nudge" and isinstance(inner, float | int) and inner is not True and abs(inner) < 1e300:
        near = (inner * 1.001, inner * (1 + 1e-12), -inner, inner + 1, inner * 10, int(inner))
        node[key] = draw(st.sampled_from(near))
    elif kind == "text":
        node[key] = json.dumps(inner)[:2000]
    elif kind == "nest":
        node[key] = [inner] if draw(st.booleans()) else {"x": inner}
    else:
        node[key] = copy.deepcopy(draw(st.sampled_from(JUNK)))
    return f"{kind} {where}: {str(node)[:200]}"


@st.composite
def files(draw):
    name = draw(st.sampled_from(DRAWN))
    text = table_file(name)
    kind = draw(st.sampled_from(["forged"] * 10 + ["changed", "cut", "doubled", "wild", "none", "none"]))
    story = [kind]
    if kind in ("forged", "changed"):
        document = json.loads(text)
        for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
            if document:
                story.append(draw(edits(document)))
        if kind == "forged":
            with contextlib.suppress(UnicodeEncodeError):
                document["checksum"] = checksum_of(document)
        text = json.dumps(document, ensure_ascii=draw(st.booleans()))
    elif kind == "cut":
        text = text[: draw(st.integers(0, len(text)))]
    elif kind == "doubled":
        text = text.replace("{\n", '{\n"name": "x",', 1)
    elif kind == "wild":
        text = draw(st.sampled_from(WILD))
    return Mutated(name, text.encode("utf-8", "surrogatepass"), "; ".join(story))


def close(stated, true, tolerance: float) -> bool:
    stated, true = np.atleast_1d(stated), np.atleast_1d(true)
    allowed = tolerance * np.maximum(np.abs(true), 1e-6 * np.max(np.abs(true), initial=0.0))
    return stated.shape == true.shape and bool(np.all(np.abs(stated - true) <= allowed))


def assert_the_same(name: str, stated: dict, true: dict) -> None:
    """What `check` lets pass says the same as the file that was written, within the tolerances that it states."""
    unstated = "parameters" not in stated["provenance"]  # then they are solved for, as for a file of version 0.1
    tolerance = 1.01e-4 if name in ITERATIVE or unstated else 1.01e-9
    rules = zip(("all_wrong_advantage", "all_right_advantage"), true["provenance"]["end_rules"], strict=True)
    computed = [rule for rule, source in rules if source != "given"]  # what a user gave may be any number
    for key in ("rho", "weight", "advantage_correct", "advantage_wrong", *computed):
        assert true[key] is stated[key] is None or close(stated[key], true[key], tolerance), key
    for key in ("schema", "name", "label", "group_size"):
        assert stated[key] == true[key], key
    for key, value in (true["certificate"] or {}).items():
        if key == "prices":  # what the proof was made from; any that prove as much are as good
            assert stated["certificate"].get(key, value).__class__ is value.__class__
        elif key == "checks":
            assert stated["certificate"].get(key, value) == value
        elif key in ("gap", "quadrature_error", "budget_error", "violation"):
            assert abs(stated["certificate"][key]) <= 1e-7
        else:
            assert close(stated["certificate"][key], value, tolerance if key == "multiplier" else 1.01e-8), key
    problem, claimed = true["problem"] or {}, {"kind": (true["problem"] or {}).get("kind"), **(stated["problem"] or {})}
    for key in {*problem, *claimed}:  # absent and null mean the same
        value = problem.get(key)
        assert claimed.get(key) == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), key
    said, known = ({**document["provenance"], "versions": 0, "curve": 0} for document in (stated, true))
    parameters, own = said.pop("parameters", None), known.pop("parameters", None)
    assert said == known
    if parameters is not None:
        assert parameters.keys() == own.keys()
        for key, value in own.items():
            assert parameters[key] == value if isinstance(value, str) else close(parameters[key], value, 1.01e-9), key


@pytest.mark.slow
@fuzz("shown", 60, 450, files(), st.booleans())
def test_show(file, as_json):
    data = file.data
    Path("shown.json").write_bytes(data)
    ended = run("show", "shown.json", *(["--json"] if as_json else []))
    answered = outcome("shown", ended)
    assert ended.status != 1
    if not answered:
        return
    document = json.loads(data)
    assert document["checksum"] == checksum_of(document)
    if as_json:
        printed = json.loads(ended.out)
        assert printed["checksum"] == checksum_of(printed)
        # Whole numbers become floats, which are equal and yet another text to hash.
        assert {**printed, "checksum": 0} == {**document, "checksum": 0}


@pytest.mark.slow
@fuzz("checked", 40, 520, files(), st.booleans(), refusals=1)
def test_check(file, as_json):
    name, data, _ = file
    Path("checked.json").write_bytes(data)
    ended = run("check", "checked.json", *(["--json"] if as_json else []))
    COUNTS["checked"] += 1
    COUNTS[f"checked: status {ended.status}"] += 1
    assert ended.status in (0, 1)
    if as_json:
        said = json.loads(ended.out)
        assert said["ok"] is (ended.status == 0)
        sentence = said["message"]
    else:
        sentence = (ended.out or ended.err).removesuffix("\n")
        assert (ended.err == "") is (ended.status == 0)
    assert "\n" not in sentence
    assert 10 < len(sentence) < LONGEST
    if ended.status == 0:
        assert_the_same(name, json.loads(data), json.loads(table_file(name)))


# What earlier versions got wrong --------------------------------------------------------------------------------------


REFUSED = {
    "a folder": "sweep --start 0.1 --target 0.9 --clock regular --workers 1 --output .",
    "the folder above": "sweep --start 0.1 --target 0.9 --clock regular --workers 1 --output ..",
    "links in a circle": f"solve {WAY} regular --output circle",
    "a long name": f"solve {WAY} regular --output {'x' * 300}/table.json",
    "a long clock": f"solve {WAY} {'x' * 9000}",
    "a long group of a clock": f"solve {WAY} mixed:{'9' * 4000}",
    "a long parameter": f"table --weighting pkpo:{'9' * 4000} --group-size 8",
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_sentence(name):
    Path("circle").unlink(missing_ok=True)
    Path("circle").symlink_to("circle")
    assert not outcome("", run(*REFUSED[name].split()))


# The checkers themselves ----------------------------------------------------------------------------------------------


def test_the_checker_of_files_catches_a_changed_number():
    true = json.loads(table_file("curve"))
    assert_the_same("curve", copy.deepcopy(true), true)
    for change in (
        {"weight": [true["weight"][0] * (1 + 1e-8), *true["weight"][1:]]},
        {"certificate": {**true["certificate"], "lower_bound": true["certificate"]["lower_bound"] * (1 + 1e-7)}},
        {"problem": {**true["problem"], "budget": 2.0}},
    ):
        with pytest.raises(AssertionError):
            assert_the_same("curve", true | change, true)


@pytest.mark.parametrize(
    "ended",
    [
        Run(2, "", "weightopt: no full stop\n"),
        Run(2, "", "weightopt: one.\nweightopt: two.\n"),
        Run(2, "half an answer", "weightopt: no.\n"),
        Run(0, "fine", "a warning\n"),
        Run(1, "", "weightopt: no such file.\n"),
        Run(3, "", "weightopt: no.\n"),
    ],
    ids=str,
)
def test_the_checker_of_sentences_catches(ended):
    before = Counter(COUNTS)
    with pytest.raises(AssertionError):
        outcome("nothing", ended)
    COUNTS.clear()
    COUNTS.update(before)
