"""Tables: the same bytes every time, nothing but a whole and honest file accepted, curves read off as groups."""

import csv
import hashlib
import io
import json
import math
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.stats import binom

from tests.amounts import examples
from theory import catalogue
from theory.handbook import paper
from weightopt import Problem, solve
from weightopt.catalogue_tables import named_table
from weightopt.files import replace_file
from weightopt.table import TableError, WeightTable, group_table

SOLVED = solve(Problem(0.01, 0.9, "effective"))
CURVE = SOLVED.table()
GROUP = SOLVED.table(8)
NAMED = named_table(catalogue.WEIGHTINGS["grpo"], 4)
TABLES = {"curve": CURVE, "group": GROUP, "named": NAMED, "pair": named_table(catalogue.WEIGHTINGS["linear-r"], 2)}


def sealed(document: dict[str, Any]) -> str:
    """The document with a checksum of this test's own making, as whoever edits a file on purpose would write it."""
    rest = {key: value for key, value in document.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return json.dumps({**rest, "checksum": "sha256:" + hashlib.sha256(text.encode()).hexdigest()})


def document(table: WeightTable) -> dict[str, Any]:
    return json.loads(table.to_json())


def outcome(text: str) -> WeightTable | str:
    """The table, or the sentence of the refusal; anything else that is raised fails the test."""
    try:
        return WeightTable.from_json(text)
    except TableError as error:
        return str(error)


def refused(text: str) -> str:
    with pytest.raises(TableError) as caught:
        WeightTable.from_json(text)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 400
    return sentence


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_a_table_comes_back_from_its_file_and_writes_the_same_bytes(table, tmp_path):
    path = tmp_path / "table.json"
    table.save(path)
    again = WeightTable.load(path)
    assert again == table
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert sealed(document(table)) == json.dumps(document(table))  # the checksum is sha256 of the canonical form


def test_building_twice_gives_the_same_bytes():
    for build in (
        lambda: solve(Problem(0.01, 0.9, "mixed:8", monotone="decreasing", max_weight=3.0)).table(16),
        lambda: solve(Problem(0.01, 0.9, "effective")).table(),
        lambda: named_table(catalogue.WEIGHTINGS["sqrt-r"], 16),
    ):
        assert build().to_json() == build().to_json()


def test_the_file_has_every_promised_key():
    for table in TABLES.values():
        assert set(document(table)) >= {
            *("schema", "name", "group_size", "rho", "weight", "all_wrong_advantage", "all_right_advantage"),
            *("advantage_correct", "advantage_wrong", "problem", "certificate", "provenance", "checksum"),
        }
    assert document(CURVE)["group_size"] is None
    assert document(GROUP)["schema"] == "weightopt.table/1"
    assert len(document(GROUP)["advantage_correct"]) == len(document(GROUP)["advantage_wrong"]) == 9


@pytest.mark.parametrize("key", sorted(document(GROUP)))
@pytest.mark.parametrize("which", ["curve", "group"])
def test_a_missing_key_is_named(which, key):
    values = document(TABLES[which])
    del values[key]
    sentence = refused(json.dumps(values) if key == "checksum" else sealed(values))
    assert f"'{key}'" in sentence
    refused(json.dumps(values))  # and with the old checksum


JUNK = [None, True, "x", "", [], {}, -1, 1.5, 10**400, [1, "x"], [[1.0]], {"a": 1}, [True], ["1.0"], [None]]
MAY = {  # what these keys may hold in a group table
    "name": ("x",),
    "label": ("x",),
    "problem": (None, {}, {"a": 1}),
    "certificate": (None, {}, {"a": 1}),
    "provenance": ({}, {"a": 1}),
}


@pytest.mark.parametrize("key", sorted(set(document(GROUP)) - {"checksum"}))
def test_a_value_of_another_kind_is_named(key):
    for value in JUNK:
        if value in MAY.get(key, ()) and not isinstance(value, bool):
            continue
        sentence = refused(sealed({**document(GROUP), key: value}))
        assert f"'{key}'" in sentence or key in ("rho", "group_size"), (value, sentence)


@pytest.mark.parametrize("value", [None, 1, True, "", "x", [], {}, "sha256:", "sha256:" + "0" * 64])
def test_a_wrong_checksum_is_refused(value):
    assert "'checksum'" in refused(json.dumps({**document(GROUP), "checksum": value}))


@pytest.mark.parametrize("key", ["weight", "rho", "advantage_correct", "advantage_wrong"])
@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400, "1" + "0" * 5000]
)
def test_a_number_that_is_none_is_refused(key, number):
    text = GROUP.to_json()
    first = repr(document(GROUP)[key][1])
    assert first in text
    refused(text.replace(first, number))


def test_a_huge_whole_number_is_refused_with_a_fresh_checksum_too():
    for key in ("weight", "rho", "advantage_correct"):
        values = document(GROUP)
        values[key][1] = 10**1000
        assert f"'{key}'" in refused(sealed(values))
    refused(sealed({**document(GROUP), "all_wrong_advantage": -(10**1000)}))
    refused(sealed({**document(GROUP), "group_size": 10**1000}))


MUTATIONS = {
    "unsorted rho": ("curve", {"rho": lambda v: [v[1], v[0], *v[2:]]}),
    "repeated rho": ("curve", {"rho": lambda v: [v[0], v[0], *v[2:]]}),
    "rho at zero": ("curve", {"rho": lambda v: [0.0, *v[1:]]}),
    "rho at one": ("curve", {"rho": lambda v: [*v[:-1], 1.0]}),
    "rho negative": ("curve", {"rho": lambda v: [-0.1, *v[1:]]}),
    "rho short": ("curve", {"rho": lambda v: v[:-1]}),
    "weight long": ("curve", {"weight": lambda v: [*v, 1.0]}),
    "weight zero": ("curve", {"weight": lambda v: [0.0, *v[1:]]}),
    "weight negative": ("group", {"weight": lambda v: [-1.0, *v[1:]]}),
    "nothing": ("curve", {"rho": lambda _: [], "weight": lambda _: []}),
    "correct short": ("group", {"advantage_correct": lambda v: v[:-1]}),
    "wrong long": ("group", {"advantage_wrong": lambda v: [*v, 0.0]}),
    "rho not k/M": ("group", {"rho": lambda v: [v[0] * 1.001, *v[1:]]}),
    "other group size": ("group", {"group_size": lambda _: 9}),
    "group of one": ("group", {"group_size": lambda _: 1}),
    "group of 8.0": ("group", {"group_size": lambda _: 8.0}),
    "group became curve": ("group", {"group_size": lambda _: None}),
    "curve became group": ("curve", {"group_size": lambda _: 1026}),
    "other all-wrong rule": ("group", {"all_wrong_advantage": lambda v: v - 1}),
    "other all-right rule": ("group", {"all_right_advantage": lambda v: v + 1}),
    "curve with advantages": ("curve", {"advantage_correct": lambda _: [0.0, 1.0]}),
    "other schema": ("curve", {"schema": lambda _: "weightopt.table/2"}),
    "schema is a number": ("curve", {"schema": lambda _: 1}),
    "unknown key": ("curve", {"colour": lambda _: "red"}),
    "unknown key with a line break": ("curve", {"a\nb" * 100: lambda _: 1}),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_changed_file_is_refused_even_with_a_fresh_checksum(name):
    which, changes = MUTATIONS[name]
    values = document(TABLES[which])
    for key, change in changes.items():
        values[key] = change(values.get(key))
    refused(sealed(values))
    refused(json.dumps(values))


TEXTS = {
    "empty": "",
    "white space": " \n",
    "null": "null",
    "number": "3",
    "list": "[]",
    "text": '"weightopt.table/1"',
    "empty object": "{}",
    "only a schema": '{"schema": "weightopt.table/1"}',
    "truncated": GROUP.to_json()[:-40],
    "half": GROUP.to_json()[:200],
    "two documents": GROUP.to_json() * 2,
    "trailing comma": GROUP.to_json().replace("\n}", ",\n}"),
    "key twice": GROUP.to_json().replace("{\n", '{\n  "name": "grpo",\n', 1),
    "inner key twice": GROUP.to_json().replace('"method":', '"method": "x", "method":', 1),
    "byte order mark": "\ufeff" + GROUP.to_json(),
    "deep list": "[" * 100_000,
    "deep list, closed": "[" * 100_000 + "]" * 100_000,
    "deep object": '{"a":' * 100_000,
    "deep in provenance": GROUP.to_json().replace(
        '"provenance": {', '"provenance": {"x": ' + "[" * 50_000 + "]" * 50_000 + ", "
    ),
    "lone surrogate": GROUP.to_json().replace("Time-optimal", "\\ud800"),
    "lone surrogate key": GROUP.to_json().replace('"label"', '"\\udfff"'),
    "null byte": "\0",
    "csv": CURVE.to_csv(),
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_table_is_refused(name):
    refused(TEXTS[name])


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 64, b"\xff\xfe\0", b"\x89PNG\r\n", bytes(range(256)), b"\xed\xa0\x80"], ids=repr
)
def test_binary_files_are_refused(data, tmp_path):
    path = tmp_path / "table.json"
    path.write_bytes(data)
    with pytest.raises(TableError) as caught:
        WeightTable.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_that_cannot_be_read_are_refused(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path, str(tmp_path) + "/a\0b"):
        with pytest.raises(TableError):
            WeightTable.load(path)


@examples(40, 150, data=st.data())
def test_random_damage_to_the_bytes_is_found(data):
    original = NAMED.to_json().encode()
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        what = data.draw(st.sampled_from(["flip", "drop", "insert", "cut", "swap"]))
        if what == "flip":
            damaged[at] ^= data.draw(st.integers(1, 255))
        elif what == "drop":
            del damaged[at : at + data.draw(st.integers(1, 30))]
        elif what == "insert":
            damaged[at:at] = data.draw(st.binary(min_size=1, max_size=4))
        elif what == "cut":
            damaged = damaged[: at + 1]
        else:
            damaged[at : at + 2] = damaged[at : at + 2][::-1]
        if not damaged:
            damaged = bytearray(b"{")
    found = outcome(bytes(damaged).decode("utf-8", errors="surrogateescape"))
    if isinstance(found, str):
        assert "\n" not in found
    else:
        assert found == NAMED  # white space, or damage that cancelled


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@examples(40, 200, key=st.sampled_from(sorted(set(document(NAMED)) - {"checksum"})), value=VALUES, at=st.integers(0, 4))
def test_any_value_with_a_fresh_checksum_is_refused_or_makes_a_whole_table(key, value, at):
    values = document(NAMED)
    if isinstance(values[key], list) and at < len(values[key]):
        values[key][at] = value
    else:
        values[key] = value
    try:
        text = sealed(values)
    except ValueError:  # text that no file can hold
        return
    table = outcome(text)
    if isinstance(table, str):
        assert "\n" not in table
        return
    assert WeightTable.from_json(table.to_json()) == table
    assert table.group_size == 4
    assert len(table.rho) == len(table.weight) == 3
    assert all(
        math.isfinite(x) for x in (*table.weight, *(table.advantage_correct or ()), *(table.advantage_wrong or ()))
    )


@pytest.mark.parametrize("size", [2, 3, 5, 16, 64])
@pytest.mark.parametrize("name", [weighting.name for weighting in paper.PLAIN])
def test_a_group_table_is_the_formula_at_k_over_m_with_rules_at_the_ends(name, size):
    weighting = catalogue.WEIGHTINGS[name]
    table = named_table(weighting, size)
    factor = size / (size - 1) if name == "rloo" else 1.0
    assert table.advantage_correct is not None
    assert table.advantage_wrong is not None
    for k in range(1, size):
        rho = k / size
        omega = factor * float(weighting(rho))
        assert table.weight[k - 1] == pytest.approx(omega, rel=1e-15 * 4)
        assert table.advantage_correct[k] == pytest.approx(omega * (1 - rho), rel=1e-15 * 8)
        assert table.advantage_wrong[k] == pytest.approx(-omega * rho, rel=1e-15 * 8)
        # Centred: the advantages of a mixed group add up to nothing.
        total = k * table.advantage_correct[k] + (size - k) * table.advantage_wrong[k]
        assert total == pytest.approx(0, abs=1e-13 * size * omega)
    all_wrong = -1.0 if name in ("linear-r", "sqrt-r", "uniform-r", "plateau-r") else 0.0
    all_right = 1.0 if name == "uniform-r" else 0.0
    assert (table.advantage_wrong[0], table.all_wrong_advantage) == (all_wrong, all_wrong)
    assert (table.advantage_correct[size], table.all_right_advantage) == (all_right, all_right)
    assert (table.advantage_correct[0], table.advantage_wrong[size]) == (0.0, 0.0)


def test_leave_one_out_table_is_the_mean_of_the_others():
    table = named_table(catalogue.WEIGHTINGS["rloo"], 5)
    assert table.advantage_correct is not None
    assert table.advantage_wrong is not None
    for k in range(1, 5):
        assert table.advantage_correct[k] == pytest.approx(1 - (k - 1) / 4, abs=1e-15)
        assert table.advantage_wrong[k] == pytest.approx(-k / 4, abs=1e-15)


@pytest.mark.parametrize("size", [2, 3, 8, 100])
def test_a_curve_becomes_the_group_table_of_its_own_values(size):
    table = CURVE.for_group(size)
    rho = np.arange(1, size) / size
    assert table.group_size == size
    assert table.rho == pytest.approx(rho, abs=0)
    assert table.weight == pytest.approx(CURVE(rho), abs=0)
    # Against the weighting itself: the curve interpolates on 1025 points, see the order below.
    assert table.weight == pytest.approx(SOLVED.weighting(rho), rel=2e-5)
    assert table.all_wrong_advantage == CURVE.all_wrong_advantage == SOLVED.weighting.all_wrong_advantage
    assert table.provenance["curve"] == CURVE.checksum
    assert table.for_group(size) is table
    assert WeightTable.from_json(table.to_json()) == table


def test_a_group_table_fits_no_other_group():
    with pytest.raises(TableError, match="--group-size 16"):
        GROUP.for_group(16)
    with pytest.raises(TableError):
        GROUP(0.5)


@pytest.mark.parametrize("size", [1, 0, -1, 65537, 2.0, True, "8", None])
def test_a_curve_refuses_a_group_size_out_of_range(size):
    with pytest.raises(TableError, match="group size"):
        CURVE.for_group(size)


@pytest.mark.parametrize("rho", [0.0, 1.0, -0.1, 1.1, math.nan, [0.5, 1.0]])
def test_a_curve_refuses_success_outside_the_open_interval(rho):
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        CURVE(rho)


def curve_of(weighting, points):
    theta = np.linspace(-6, 6, points)
    rho = 1 / (1 + np.exp(-theta))
    return WeightTable(
        name="x",
        label="x",
        group_size=None,
        rho=tuple(rho.tolist()),
        weight=tuple(weighting(rho).tolist()),
        all_wrong_advantage=0,
        all_right_advantage=0,
    )


@pytest.mark.parametrize("name", ["linear-r", "sqrt-r", "grpo"])
def test_tabulating_a_curve_converges_at_second_order(name):
    weighting = catalogue.WEIGHTINGS[name]
    rho = 1 / (1 + np.exp(-np.linspace(-5.9, 5.9, 3001)))
    errors = [float(np.max(np.abs(curve_of(weighting, n)(rho) / weighting(rho) - 1))) for n in (41, 81, 161, 321)]
    assert np.divide(errors[:-1], errors[1:]) == pytest.approx([4, 4, 4], rel=0.1)  # halved spacing, a quarter of it


def test_a_curve_is_exact_at_its_own_points_and_holds_its_ends():
    assert CURVE(np.array(CURVE.rho)) == pytest.approx(CURVE.weight, rel=1e-13)
    assert float(CURVE(1e-9)) == pytest.approx(CURVE.weight[0], rel=1e-13)
    assert float(CURVE(1 - 1e-9)) == pytest.approx(CURVE.weight[-1], rel=1e-13)


def test_groups_read_off_a_curve_tend_to_it_at_first_order_in_the_group_size():
    """Expected speed of log-odds over K ~ Bin(M, ρ), exact-ratio step, tends to ω(ρ) like 1/M."""
    weighting, rho = catalogue.WEIGHTINGS["grpo"], 0.3
    errors = []
    for size in (32, 64, 128, 256):
        table = curve_of(weighting, 4001).for_group(size)
        k = np.arange(1, size)
        share = k / size * (1 - k / size) / (rho * (1 - rho))
        speed = float(np.sum(binom.pmf(k, size, rho) * share * np.array(table.weight)))
        errors.append(abs(speed - float(weighting(rho))))
    assert np.divide(errors[:-1], errors[1:]) == pytest.approx([2, 2, 2], rel=0.1)


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_csv_holds_the_same_numbers(table):
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    if table.group_size is None:
        assert [float(row["rho"]) for row in rows] == list(table.rho)
        assert [float(row["weight"]) for row in rows] == list(table.weight)
        return
    assert [int(row["correct"]) for row in rows] == list(range(table.group_size + 1))
    assert [float(row["rho"]) for row in rows[1:-1]] == list(table.rho)
    assert [float(row["weight"]) for row in rows[1:-1]] == list(table.weight)
    assert (rows[0]["weight"], rows[-1]["weight"]) == ("", "")
    assert [float(row["advantage_correct"]) for row in rows] == list(table.advantage_correct or ())
    assert [float(row["advantage_wrong"]) for row in rows] == list(table.advantage_wrong or ())


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weighting_with_bad_weights_makes_no_group_table(weight):
    with pytest.raises(TableError, match="weight"):
        group_table(
            lambda rho: np.full_like(rho, weight), 4, name="x", label="x", all_wrong_advantage=0, all_right_advantage=0
        )


@pytest.mark.parametrize(
    "bad", [{"label": "\ud800"}, {"provenance": {"x": math.nan}}, {"provenance": {"x": {1}}}], ids=str
)
def test_a_table_that_no_file_could_hold_is_refused_when_made(bad):
    fields = {"name": "x", "label": "x", "rho": (0.5,), "weight": (1.0,), "provenance": {}, **bad}
    with pytest.raises(TableError):
        WeightTable(group_size=None, all_wrong_advantage=0, all_right_advantage=0, **fields)


def test_a_file_is_replaced_whole_with_ordinary_permissions(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(step, tmp_path, monkeypatch):
    path = tmp_path / "table.json"
    path.write_bytes(b"old")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        GROUP.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


def test_a_folder_that_does_not_exist_is_an_error_and_stays_absent(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        GROUP.save(tmp_path / "absent" / "table.json")
    assert list(tmp_path.iterdir()) == []
