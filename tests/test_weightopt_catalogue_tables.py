"""The catalogue at the door: its tables are verified, and the command line takes every name."""

import hashlib
import json

import numpy as np
import pytest

from tests.amounts import some_of
from theory import catalogue, finite_group
from theory.quadrature import integrate
from theory.weighting import GroupScheme
from weightopt import Problem, compare
from weightopt.catalogue_tables import budget_scale, catalogue_table
from weightopt.comparison import NAMES
from weightopt.table import TableError, WeightTable
from weightopt.verify import verify

SPAN = ["--start", "0.01", "--target", "0.9"]


def scheme_table(name, size=8, **options) -> WeightTable:
    return catalogue_table(catalogue.parse(name), size, **options)


def forged(values) -> WeightTable:
    rest = {key: value for key, value in values.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    checksum = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    return WeightTable.from_json(json.dumps({**rest, "checksum": checksum}))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(catalogue.EVERYTHING))
@some_of("size", [None, 4, 16], 2)
def test_every_table_of_the_catalogue_is_verified(name, size, tmp_path):
    member = catalogue.EVERYTHING[name]
    if size is None and isinstance(member, GroupScheme):
        with pytest.raises(TableError, match="--group-size"):
            catalogue_table(member)
        return
    path = tmp_path / "table.json"
    catalogue_table(member, size).save(path)
    table = WeightTable.load(path)
    assert "found equal" in verify(table)
    rule = "published" if isinstance(member, GroupScheme) or member.published_rules else "limit"
    assert table.provenance["end_rules"] == [rule, rule]


@pytest.mark.parametrize("name", list(catalogue.SCHEMES))
def test_a_table_of_a_scheme_holds_its_advantages_and_their_difference(name):
    table = scheme_table(name, 16, scale=0.5)
    correct, wrong = catalogue.SCHEMES[name](16)
    assert table.advantage_correct == pytest.approx(0.5 * correct, abs=0)
    assert table.advantage_wrong == pytest.approx(0.5 * wrong, abs=0)
    assert table.weight == pytest.approx(0.5 * (correct - wrong)[1:-1], abs=0)
    assert (table.all_wrong_advantage, table.all_right_advantage) == (0.5 * wrong[0], 0.5 * correct[-1])
    assert "found equal" in verify(table)
    stated = scheme_table(name, 16, all_wrong=-0.25, all_right=0.125)
    assert stated.advantage_wrong is not None
    assert stated.advantage_correct is not None
    assert (stated.advantage_wrong[0], stated.advantage_correct[-1]) == (-0.25, 0.125)
    assert stated.provenance["end_rules"] == ["given", "given"]
    assert "found equal" in verify(stated)


@pytest.mark.parametrize("name", ["maxrl", "ngrpo", "w-reinforce:0.1", "pass-at-k-groups:4", "bnpo:0.3,0.06"])
def test_every_altered_number_of_a_table_is_found(name):
    original = json.loads(scheme_table(name).to_json())
    tried = 0
    for key in ("weight", "advantage_correct", "advantage_wrong"):
        # Entries at the ends are the rules, below.
        inner = range(len(original[key])) if key == "weight" else range(1, len(original[key]) - 1)
        for at in inner:
            changed = json.loads(json.dumps(original))
            changed[key][at] += 1e-3
            with pytest.raises(TableError):
                verify(forged(changed))
            tried += 1
    assert tried == 7 + 7 + 7
    changed = json.loads(json.dumps(original))
    changed["all_wrong_advantage"] -= 0.5
    changed["advantage_wrong"][0] -= 0.5
    with pytest.raises(TableError):
        verify(forged(changed))
    for key, value in (("end_rules", ["solved", "solved"]), ("weighting", "psr"), ("source", "us"), ("scale", 2.0)):
        changed = json.loads(json.dumps(original))
        changed["provenance"][key] = value
        with pytest.raises(TableError):
            verify(forged(changed))


@pytest.mark.parametrize("size", [0, 1, True, 2.0, "8", 65537, 10**9])
def test_a_scheme_refuses_a_group_size_out_of_range(size):
    with pytest.raises(TableError, match="group size"):
        scheme_table("psr", size)


def test_a_scheme_refuses_groups_below_its_own_smallest():
    with pytest.raises(TableError, match="at least 4 responses"):
        scheme_table("pkpo:4", 3)


@pytest.mark.parametrize("name", ["psr", "nsr", "w-reinforce:0.1", "pkpo:4"])
def test_a_budget_is_spent_by_the_expected_speed_of_unbiased_schemes(name):
    member = catalogue.SCHEMES[name]
    table = scheme_table(name, 8, scale=budget_scale(member.limit, 0.01, 0.9, 2.5))
    assert table.advantage_correct is not None
    assert table.advantage_wrong is not None
    advantages = table.advantage_correct, table.advantage_wrong
    spent = integrate(lambda rho: finite_group.speed(rho.ravel(), *advantages, "ratio").reshape(rho.shape), 0.01, 0.9)
    assert spent == pytest.approx(2.5, rel=1e-10)  # u is constant, or a polynomial of degree 3 in ρ


def test_compare_has_its_rows_and_all_the_others_on_demand(run):
    status, out, _ = run("compare", *SPAN, "--clock", "effective", "--json")
    rows = json.loads(out)["rows"]
    assert (status, [row["weighting"] for row in rows]) == (0, [*NAMES, "optimal"])
    status, out, _ = run("compare", *SPAN, "--clock", "effective", "--all", "--json")
    every = json.loads(out)["rows"]
    assert (status, [row["weighting"] for row in every]) == (0, [*catalogue.WEIGHTINGS, "optimal"])
    found = {row["weighting"]: row["ratio"] for row in every}
    assert all(found[row["weighting"]] == row["ratio"] for row in rows)
    assert min(found.values()) >= 1 - 1e-12
    status, out, _ = run("compare", *SPAN, "--clock", "effective", "--all")
    assert status == 0
    assert out.count("reconstruction") == 2


@pytest.mark.parametrize("budget", [0.01, 40.0])
def test_ratios_do_not_depend_on_the_budget(budget):
    _, one = compare(Problem(0.02, 0.8, "mixed:8"), tuple(catalogue.WEIGHTINGS))
    _, other = compare(Problem(0.02, 0.8, "mixed:8", budget=budget), tuple(catalogue.WEIGHTINGS))
    assert [row.ratio for row in other] == pytest.approx([row.ratio for row in one], rel=1e-12)
    assert [row.time * budget for row in other] == pytest.approx([row.time for row in one], rel=1e-12)


def test_list_prints_every_name(run, monkeypatch):
    status, out, err = run("list", "--json")
    assert (status, err) == (0, "")
    rows = json.loads(out)["weightings"]
    assert [row["name"] for row in rows] == list(catalogue.EVERYTHING)
    assert {row["kind"] for row in rows} == {"weighting", "batch", "group"}
    for row in rows:
        assert row == catalogue.describe(catalogue.EVERYTHING[row["name"]])
    monkeypatch.setenv("COLUMNS", "200")
    status, out, err = run("list")
    assert (status, err) == (0, "")
    for name in catalogue.EVERYTHING:
        assert name in out
    for family in catalogue.FAMILIES.values():
        assert f"{family.name}:{family.parameters}" in out
    assert "reconstruction" in out


@some_of("name", ["ngrpo", "tsallis", "tsallis:0.25", "bnpo:0.4,0.1", "pass-at-k-groups:2", "dapo"], 2)
def test_table_takes_the_names_of_the_catalogue(run, name, tmp_path):
    status, out, err = run("table", "--weighting", name, "--group-size", 8, "--output", "t.json", "--json")
    assert (status, err) == (0, "")
    expected = catalogue_table(catalogue.parse(name), 8)
    assert out == expected.to_json() == (tmp_path / "t.json").read_text()
    status, out, _ = run("check", "t.json")
    assert status == 0
    status, out, _ = run("show", "t.json")
    assert status == 0
    assert "correct" in out


def test_table_scales_a_scheme_to_a_budget(run):
    arguments = ["--group-size", 8, "--budget", 2, *SPAN, "--json"]
    status, out, _ = run("table", "--weighting", "w-reinforce", *arguments)
    assert status == 0
    assert json.loads(out)["provenance"]["scale"] == pytest.approx(2 / (1.1 * 0.89), rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--weighting", "ngrpo"], ["ngrpo", "--group-size"]),
        (["--weighting", "pkpo:4", "--group-size", "3"], ["pkpo:4", "at least 4"]),
        (["--weighting", "psr", "--group-size", "70000"], ["group size", "65536"]),
        (["--weighting", "tsallis:3"], ["--weighting", "from 0 to 1"]),
        (["--weighting", "bnpo"], ["--weighting", "bnpo:mean,variance"]),
        (["--weighting", "nothing"], ["--weighting", "weightopt list"]),
        (["--weighting", "pass-at-k:4096"], ["pass-at-k:4096", "rounds to 0", "--group-size"]),
        (["--weighting", "psr", "--group-size", "8", "--all-wrong", "nan"], ["--all-wrong"]),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_file(run, tmp_path, arguments, words):
    status, out, err = run("table", *arguments, "--output", "t.json")
    assert (status, out) == (2, "")
    assert err.startswith("weightopt: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert list(tmp_path.iterdir()) == []


def test_a_curve_of_the_catalogue_is_its_formula_on_the_grid():
    for name, entry in catalogue.WEIGHTINGS.items():
        table = catalogue_table(entry)
        rho = np.array(table.rho)
        assert table.weight == pytest.approx(entry(rho), rel=1e-15 * 2), name
