"""Whatever names a weighting reaches the engine as a table: names of the catalogue, curve files, group files."""

import dataclasses

import numpy as np
import pytest

from sim import starts, weighting
from sim.errors import UsageError
from theory import catalogue
from weightopt.catalogue_tables import catalogue_table
from weightopt.table import WeightTable


def table(name: str, group_size: int | None = None) -> WeightTable:
    return catalogue_table(catalogue.parse(name), group_size)


@pytest.mark.parametrize("name", list(catalogue.EVERYTHING))
def test_a_name_is_the_table_that_the_command_line_writes(name, tmp_path):
    made = table(name, 8)
    made.save(tmp_path / "table.json")
    named, loaded = weighting.read(name, 8), weighting.read(str(tmp_path / "table.json"), 8)
    for weights in (named, loaded):
        np.testing.assert_array_equal(weights.correct, made.advantage_correct)
        np.testing.assert_array_equal(weights.wrong, made.advantage_wrong)
    assert named.label == loaded.label
    assert loaded.curve is None
    assert named.draw_again == (name == "dapo")


def test_a_curve_file_fits_any_group_and_the_large_group_limit(tmp_path):
    path = tmp_path / "curve"  # found by being a file, whatever its name
    table("sqrt-r").save(path)
    weights = weighting.read(str(path), 6)
    np.testing.assert_allclose(weights.correct, weighting.read("sqrt-r", 6).correct, rtol=1e-3)  # interpolated
    assert weights.curve is not None
    assert weights.wrong[0] == -1


def test_numbers_are_looked_up_not_computed(tmp_path):
    # A table that no formula gives.
    made = table("grpo", 4)
    odd = dataclasses.replace(made, advantage_correct=(0.0, 5.0, 0.1, 7.0, 0.25), all_right_advantage=0.25)
    odd.save(tmp_path / "odd.json")
    assert weighting.read(str(tmp_path / "odd.json"), 4).correct.tolist() == [0.0, 5.0, 0.1, 7.0, 0.25]


def test_the_all_wrong_rule_can_be_stated_and_warmed_up(tmp_path):
    table("linear-r").save(tmp_path / "curve.json")
    for text in ("linear-r", str(tmp_path / "curve.json")):
        weights = weighting.read(text, 4, all_wrong=-0.5)
        assert weights.wrong[0] == -0.5
        assert weights.with_all_wrong(0.5).wrong.tolist() == [-0.25, *weights.wrong[1:]]
    with pytest.raises(UsageError, match="'power:2,0' has no finite advantage in uniform groups: state all_wrong"):
        weighting.read("power:2,0", 4)
    assert weighting.read("power:2,0", 4, all_wrong=0.0).wrong[0] == 0


def test_a_scaled_weighting_has_the_budget_asked_for():
    weights = weighting.read("grpo", 8)
    budget = weights.drift_budget(0.01, 0.9, "ratio")
    assert weights.times(1 / budget).drift_budget(0.01, 0.9, "ratio") == pytest.approx(1)
    scaled = weights.times(3.0)
    assert scaled.curve is not None
    assert scaled.curve(np.array([0.5]))[0] == pytest.approx(6)  # 3/√(¼)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("grop", "unknown weighting 'grop'"),
        ("absent.json", r"weighting 'absent.json': .* cannot be read"),
        ("TABLE", "'group_size' is 4 but 8 responses per prompt were asked for"),
        ("pkpo:9", "needs groups of at least 9 responses, got 8"),
        ("bnpo", "needs numbers|mean"),
    ],
)
def test_bad_names_are_one_sentence(text, sentence, tmp_path):
    table("grpo", 4).save(tmp_path / "t.json")
    with pytest.raises(UsageError, match=sentence) as caught:
        weighting.read(str(tmp_path / "t.json") if text == "TABLE" else text, 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("constant:0.01", 0.01, 0.01),
        ("uniform:0.2,0.4", 0.2, 0.4),
        ("beta:0.3,3", 0.001, 0.999),
        ("beta:1,1,0.1", 0.1, 0.9),
    ],
)
def test_populations(text, low, high):
    rho = starts.parse(text).draw(5000, np.random.default_rng(0))
    assert rho.shape == (5000,)
    assert rho.min() >= low
    assert rho.max() <= high
    if low < high:
        assert rho.min() < low + 0.1
        assert len(np.unique(rho)) > 1000


def test_a_measured_population(tmp_path):
    path = tmp_path / "rho.csv"
    path.write_text("prompt,rho\na,0.1\nb,0.5\n")
    drawn = starts.parse(f"csv:{path}")
    assert drawn.draw(2, np.random.default_rng(0)).tolist() == [0.1, 0.5]
    assert set(drawn.draw(50, np.random.default_rng(0)).tolist()) == {0.1, 0.5}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("gamma:1", "is none of constant:R"),
        ("constant:x", "is none of constant:R"),
        ("constant:1", "success probabilities must be from 1e-12 to 1-1e-12"),
        ("constant:nan", "success probabilities must be"),
        ("uniform:0.5,0.1", "in order"),
        ("beta:0,1", "A and B must be from 0.01 to 10000"),
        ("csv:absent.csv", "cannot be read: No such file"),
        ("csv:FILE", "needs a CSV file with a column rho"),
    ],
)
def test_bad_populations_are_one_sentence(text, sentence, tmp_path):
    path = tmp_path / "rho.csv"
    path.write_text("p\n0.1\n")
    with pytest.raises(UsageError, match=sentence):
        starts.parse(text.replace("FILE", str(path)))
