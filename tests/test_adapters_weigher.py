"""Scored responses become the advantages of the table, whatever order and size their groups have."""

import pickle
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.step.advantage import weigh
from weightopt.adapters import AdapterError, GroupWeigher
from weightopt.table import WeightTable, group_table


def curve(**changes) -> WeightTable:
    """ω = 1/ρ exactly: between grid points log ω is linear in log ρ/(1-ρ), so the grid holds every K/M that is used."""
    rho = sorted({k / m for m in range(2, 13) for k in range(1, m)})
    given = {"all_wrong_advantage": -1.0, "all_right_advantage": 0.25, **changes}
    weight = tuple(1 / r for r in rho)
    return WeightTable(name="linear-r", label="Linear-R", group_size=None, rho=tuple(rho), weight=weight, **given)


def by_hand(ids, scores) -> list[float]:
    """The same advantages in exact fractions, one response at a time."""
    wanted = []
    for own, score in zip(ids, scores, strict=True):
        others = [s for i, s in zip(ids, scores, strict=True) if i == own and s is not None]
        k, m = sum(others), len(others)
        if score is None:
            wanted.append(0.0)
        elif k == 0:
            wanted.append(-1.0)
        elif k == m:
            wanted.append(0.25)
        else:
            wanted.append(float(Fraction(m, k) * (score - Fraction(k, m))))
    return wanted


groups = st.lists(
    st.tuples(st.sampled_from(["a", "b", 3, ("c", 1), 4.5]), st.sampled_from([0, 1, None])), min_size=1, max_size=12
)


@pytest.mark.slow
@given(groups)
def test_every_response_has_what_its_group_says(rows):
    ids, scores = zip(*rows, strict=True)
    advantages, metrics = GroupWeigher(curve())(ids, scores)
    np.testing.assert_allclose(advantages, by_hand(ids, scores), rtol=1e-12)  # a few roundings of log and exp
    known = {i for i, s in rows if s is not None}
    right = {i: [s for j, s in rows if j == i and s is not None] for i in known}
    assert metrics["groups"] == len(known) == sum(metrics["success_histogram"])
    assert metrics["unscorable"] == sum(s is None for s in scores)
    if known:
        assert metrics["all_wrong"] == pytest.approx(sum(not any(s) for s in right.values()) / len(known))
        assert metrics["all_right"] == pytest.approx(sum(all(s) for s in right.values()) / len(known))
        by_group = np.array([sum(abs(a) for (i, _), a in zip(rows, advantages, strict=True) if i == g) for g in known])
        assert metrics["effective_groups"] == pytest.approx(by_group.sum() ** 2 / (by_group**2).sum())
        scored = sum(s is not None for s in scores)
        assert metrics["mean_abs_advantage"] == pytest.approx(np.abs(advantages).sum() / scored)


@pytest.mark.parametrize(
    "name",
    [
        lambda group: group,
        lambda group: group - 2**40,
        lambda group: group * 10**12,
        lambda group: np.int8(3 * int(group) - 100),
        lambda group: np.uint64(2**64 - 1 - int(group)),
        lambda group: f"prompt-{group}",
        lambda group: ("prompt", group),
    ],
)
def test_no_name_and_no_order_of_the_groups_matters(name):
    """The same as rl, whose groups are rows of equal length, after any shuffle and with any ids."""
    rng = np.random.default_rng(0)
    correct = rng.random((60, 8)) < rng.random((60, 1))
    table = curve().for_group(8)
    wanted = weigh(table, correct, all_wrong_factor=1.0)
    order = rng.permutation(correct.size)
    ids = [name(group) for group in np.repeat(np.arange(60), 8)[order]]
    for given_ids in (ids, np.array(ids) if not isinstance(ids[0], tuple) else ids):
        advantages, metrics = GroupWeigher(table)(given_ids, correct.ravel()[order])
        assert np.array_equal(advantages, wanted.ravel()[order])
        assert metrics["success_histogram"] == tuple(np.bincount(correct.sum(axis=1), minlength=9))


def test_counts_are_exact_where_a_mean_of_floats_is_not():
    """Ten scores of 1 in float16 are ten; K/M is never computed from a rounded mean."""
    scores = np.ones(4096, dtype=np.float16)
    scores[0] = 0
    advantages, metrics = GroupWeigher(curve())(np.zeros(4096, dtype=int), scores)
    assert metrics["success_histogram"][4095] == 1
    assert advantages[0] < 0 < advantages[1]


def test_a_threshold_makes_scores_correct():
    ids, scores = ["a"] * 4, [0.2, 0.7, 0.69, float("nan")]
    advantages, metrics = GroupWeigher(curve(), threshold=0.7)(ids, scores)
    np.testing.assert_allclose(advantages, by_hand(ids, [0, 1, 0, None]), rtol=1e-12)
    assert metrics["unscorable"] == 1
    apart, _ = GroupWeigher(curve())(ids, scores, correct=[False, True, False, None])
    assert np.array_equal(advantages, apart)


@pytest.mark.parametrize(
    ("ids", "scores", "sentence"),
    [
        (["a", "a"], [0.5, 1.0], r"scores must be 0 or 1, or None .* found 0\.5; give a threshold"),
        (["a", "a"], [0.0, 2], r"scores must be 0 or 1.* found 2"),
        (["a", "a"], [0.0, np.inf], "scores must be finite, found inf"),
        (["a", "a"], ["1", "0"], "scores must be one number or None a response"),
        (["a", "a"], [10**400, 0], "scores must be one number or None a response"),
        (["a", "a"], [[0], [1]], "scores must be one number or None a response"),
        (["a", "a"], [[0], [1, 2]], "scores must be one number or None a response"),
        (["a", "a"], [1j, 0], "scores must be one number or None a response"),
        (["a"], [0, 1], "as many ids as scores, found 1 and 2"),
        (np.arange(3), [0, 1], "as many ids as scores, found 3 and 2"),
        (np.zeros((1, 2)), [0, 1], "ids must be one group id a response"),
        ("aa", [0, 1], "ids must be one group id a response"),
        ([["a"], ["a"]], [0, 1], "can be hashed"),
        ([None, None], [0, 1], "must not be None or NaN"),
        (np.array([np.nan, 1.0]), [0, 1], "must not be None or NaN"),
        (["a"] * 3, [0, 1, 0], "is for groups of 2 responses and a group has 3; set the host to 2"),
        (["a", "a"], [0, None], "of a group of 2 only 1 can be scored .* use a curve"),
    ],
)
def test_what_is_refused(ids, scores, sentence):
    weigher = GroupWeigher(curve().for_group(2), host="Host")
    with pytest.raises(AdapterError, match=sentence) as refused:
        weigher(ids, scores)
    assert str(refused.value).startswith("Host: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("threshold", [True, "0.5", float("nan"), float("inf")])
def test_a_threshold_is_a_finite_number(threshold):
    with pytest.raises(AdapterError, match="threshold must be a finite number or None"):
        GroupWeigher(curve(), threshold)


def test_nothing_to_weigh():
    advantages, metrics = GroupWeigher(curve())([], [])
    assert advantages.shape == (0,)
    assert (metrics["groups"], metrics["effective_groups"], metrics["all_wrong"]) == (0, 0.0, 0.0)
    advantages, metrics = GroupWeigher(curve().for_group(4))(["a", "a", "b", "b", "b", "b"], [None, None, 0, 0, 0, 1])
    assert not advantages[:2].any()
    assert (metrics["groups"], metrics["unscorable"], metrics["success_histogram"]) == (1, 2, (0, 1, 0, 0, 0))


def test_effective_groups_of_extreme_weights():
    for scale in (1e-200, 1e200):
        table = group_table(
            lambda rho, scale=scale: scale / rho, 2, name="x", label="x", all_wrong_advantage=0, all_right_advantage=0
        )
        assert GroupWeigher(table)([0, 0, 1, 1], [0, 1, 1, 0])[1]["effective_groups"] == pytest.approx(2)


def test_the_file_is_read_once_and_travels(tmp_path: Path):
    file = tmp_path / "table.json"
    curve().save(file)
    weigher = GroupWeigher(file, threshold=0.5, host="Host")
    file.unlink()
    ids, scores = [1, 2, 1, 2, 2], [0.4, 0.6, 0.9, 0.2, 0.5]
    wanted, metrics = weigher(ids, scores)
    packed = pickle.dumps(weigher)
    assert str(tmp_path).encode() not in packed
    advantages, again = pickle.loads(packed)(ids, scores)
    assert np.array_equal(advantages, wanted)
    assert again == metrics


def test_the_lines_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = (Path(__file__).resolve().parent.parent / "docs" / "adapters.md").read_text(encoding="utf-8")
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", page, flags=re.S) if "GroupWeigher" in text)
    monkeypatch.chdir(tmp_path)
    curve().save("table.json")
    names: dict = {}
    exec(block, names)
    assert names["advantages"] == pytest.approx(by_hand(["a", "b", "a", "b"], [1, 0, 0, None]))
    assert names["metrics"]["unscorable"] == 1
