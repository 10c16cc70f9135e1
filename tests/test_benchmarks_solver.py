"""The benchmark at a small size: its exact answers, ours and cvxpy's must meet, and what is missing is named."""

import json

import pytest

from benchmarks import solver, solver_peers
from tests.amounts import some_of


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch):
    monkeypatch.setattr(solver, "TURN", 0.0)


@some_of("problem", list(solver.AIMS), 0)
def test_ours_and_cvxpy_meet_the_exact_answer(problem):
    (ours, peer), exact = solver.measure(problem, 40, [solver.OURS, "cvxpy"], repeats=1, limit=600)
    assert exact.uncertainty <= 5e-10  # what the dual bound leaves open: 1e-15 for cells, 1e-10 for the group
    assert ours.counts
    assert ours.error <= solver.CERTIFIED + exact.uncertainty
    assert ours.gap is not None
    assert ours.gap <= solver.CERTIFIED
    assert peer.counts, peer.note


@pytest.mark.slow
def test_a_table_comes_out_and_a_missing_peer_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(solver_peers, "ca", None)
    file = tmp_path / "out.json"
    arguments = [
        "--sizes",
        "40",
        "--problems",
        "basic",
        "--only",
        "ipopt",
        "lbfgsb",
        "--repeats",
        "2",
        "--json",
        str(file),
    ]
    assert solver.main(arguments) == 0  # aims are for N = 2000
    out = capsys.readouterr().out
    assert "CasADi is not installed" in out
    assert "times as fast as scipy L-BFGS-B" in out
    (result,) = json.loads(file.read_text())["results"]
    ours, missing, peer = result["rows"]
    assert missing["note"] == "not installed"
    assert missing["seconds"] == []
    assert len(ours["seconds"]) == len(peer["seconds"]) == 2
    assert result["ratio"] == pytest.approx(  # the median of two rounds' ratios
        sum(theirs / own for own, theirs in zip(ours["seconds"], peer["seconds"], strict=True)) / 2
    )


@pytest.mark.slow
def test_a_peer_that_fails_runs_out_of_time_or_is_inaccurate_cannot_be_the_fastest(monkeypatch):
    def fail(*_):
        raise RuntimeError("no luck\nat all")

    genuine = solver.OF_CELLS["lbfgsb"]

    def inaccurate(cells, limit):
        answer = genuine(cells, limit)
        return answer._replace(weight=answer.weight * (1 + 1e-5))

    monkeypatch.setitem(solver.OF_CELLS, "cvxpy", fail)
    monkeypatch.setitem(solver.OF_CELLS, "lbfgsb", inaccurate)
    monkeypatch.setitem(
        solver.OF_CELLS, "slsqp", lambda cells, _: solver.Answer(cells.mean + 0 * cells.mass, None, True)
    )
    rows, _ = solver.measure("basic", 40, [solver.OURS, "cvxpy", "lbfgsb", "slsqp"], repeats=2, limit=600)
    assert [row.counts for row in rows] == [True, False, False, False]
    text = solver.table(rows)
    assert "failed: no luck" in text
    assert "stopped after 600 s" in text
    assert "does not count, error above 1e-06" in text
    assert rows[2].error == pytest.approx(1e-5, rel=1e-3)
    (found,) = solver.judge("basic", solver.AIM_SIZE, rows)
    assert found["fastest"] is None
    assert found["reached"] is None
    assert "no peer" in solver.sentence(found)
