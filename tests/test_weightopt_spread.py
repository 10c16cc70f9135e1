"""Calls spread over processes and over a Ray cluster: the results are those of one process, whatever is lost.

What needs Ray is skipped without it; `make test-adapters` runs it.
"""

# pyright: reportMissingImports=false

import importlib.metadata
import itertools
import math
import subprocess
import sys
import warnings

import pytest

from tests.ray_nodes import NODE, patiently
from weightopt.spread import SpreadError, in_order, spread
from weightopt.sweep import Sweep, run_sweep

PROBLEMS = Sweep(
    start=[0.01, 0.03, 0.1], target=[0.5, 0.7, 0.9], clock=["regular", "effective"], max_ratio=[4.0, 64.0, math.inf]
)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    path = tmp_path_factory.mktemp("local") / "rows.csv"
    run_sweep(PROBLEMS, path, 1, lambda _: None)
    return path.read_bytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_call_is_made_once(workers):
    calls = [(number, 2) for number in range(20)]
    results = list(spread(math.pow, calls, workers=workers, batch=3))
    assert sorted(results) == [(number, number**2) for number in range(20)]


def test_calls_are_drawn_as_they_are_needed():
    drawn = itertools.count()
    results = spread(math.sqrt, ((next(drawn),) for _ in itertools.count()), workers=2, batch=2)
    for _, _ in zip(range(4), results, strict=False):
        pass
    results.close()
    assert next(drawn) < 40


def test_results_that_come_early_wait_for_their_turn():
    assert list(in_order([(2, "c"), (0, "a"), (3, "d"), (1, "b")])) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_call_raises_is_raised(workers):
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        list(spread(math.sqrt, [(1.0,), (-1.0,)], workers=workers))


def test_without_ray_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SpreadError, match=r"--ray needs ray, which is not installed: pip install 'weightopt\[ray\]'"):
        list(spread(math.sqrt, [(1.0,)], ray="auto"))


@pytest.mark.slow
def test_the_command_takes_ray_with_and_without_an_address(tmp_path):
    program = "import sys; sys.modules['ray'] = None; from weightopt.cli import main; main()"
    words = ["sweep", "--start", "0.1", "--target", "0.9", "--clock", "regular", "--output", str(tmp_path / "a.csv")]
    for more in (["--ray"], ["--ray", "--json"], ["--ray", "host:6379"], ["--workers", "2", "--ray"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *words, *more], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done
        assert done.stderr.count("\n") == 1
        assert ("give one of them" if "--workers" in more else "--ray needs ray") in done.stderr
        assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def head():
    """A cluster of one node with one CPU."""
    pytest.importorskip("ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        from ray.cluster_utils import Cluster
    made = patiently(lambda: Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False}))
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def cluster(head):
    """Two nodes with a CPU each."""
    second = patiently(lambda: head.add_node(**NODE))
    yield head
    if second in head.worker_nodes:
        head.remove_node(second)


@pytest.fixture
def row_by_row(monkeypatch):
    """Rows are handed out one by one, so that a small sweep is many tasks."""
    monkeypatch.setattr("weightopt.sweep.CHUNK", 1)


def lose_a_node(cluster):
    (worker,) = cluster.worker_nodes
    cluster.remove_node(worker, allow_graceful=False)


@pytest.mark.filterwarnings("ignore")
def test_a_lost_node_s_calls_are_made_again(cluster):
    """Calls that run when a node dies are as long as it takes to notice, so that some of them were on it."""
    import time

    done = []
    for number, _ in spread(time.sleep, [(0.3,)] * 16, ray=cluster.address):
        if len(done) == 3:
            lose_a_node(cluster)
        done.append(number)
    assert sorted(done) == list(range(16))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("row_by_row")
def test_a_sweep_on_a_cluster_that_loses_a_node_writes_the_same_bytes(cluster, local, tmp_path):
    rows = []

    def advance(count):
        rows.append(count)
        if len(rows) == 5:
            lose_a_node(cluster)

    run_sweep(PROBLEMS, tmp_path / "rows.csv", 1, advance, ray=cluster.address)
    assert (tmp_path / "rows.csv").read_bytes() == local


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("row_by_row")
def test_a_sweep_that_was_interrupted_goes_on_here_or_there(cluster, local, tmp_path):
    def interrupt(count):
        if count and next(rows) == 3:
            raise KeyboardInterrupt

    rows = itertools.count()
    with pytest.raises(KeyboardInterrupt):
        run_sweep(PROBLEMS, tmp_path / "rows.csv", 1, interrupt, ray=cluster.address)
    kept = (tmp_path / "rows.csv.partial").read_text().count("\n")
    assert kept == 5  # what it is of, and the rows
    rows = itertools.count()
    with pytest.raises(KeyboardInterrupt):
        run_sweep(PROBLEMS, tmp_path / "rows.csv", 1, interrupt, resume=True)
    run_sweep(PROBLEMS, tmp_path / "rows.csv", 1, lambda _: None, resume=True, ray=cluster.address)
    assert (tmp_path / "rows.csv").read_bytes() == local


@pytest.mark.filterwarnings("ignore")
def test_simulations_on_a_cluster_that_loses_a_node_are_those_of_one_process(cluster, tmp_path):
    pytest.importorskip("numba")
    from sim.config import Config
    from sim.sweep import Reporter, sweep

    small = Config(
        weightings=("grpo", "dapo"), populations=("constant:0.2", "beta:1,2"), step_sizes=(0.05, 0.2), seeds=2,
        prompts=40, steps=30, group_size=4, equal_budget=(0.1, 0.9),
    )  # fmt: skip

    class Killer(Reporter):
        finished_cells = 0

        def finished(self, cell, trajectory):  # noqa: ARG002
            self.finished_cells += 1
            if self.finished_cells == 3:
                lose_a_node(cluster)

    sweep(small, tmp_path / "here")
    killer = Killer()
    sweep(small, tmp_path / "there", reporter=killer, ray=cluster.address)
    assert killer.finished_cells == 16
    for name in ("trajectories.csv", "measures.csv", "summary.csv"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


@pytest.mark.filterwarnings("ignore")
def test_a_worker_with_other_versions_is_named(cluster, monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.1" if name == "weightopt" else version(name))
    with pytest.raises(SpreadError, match=r"a worker on node .* has weightopt .* and this process 0\.1"):
        list(spread(math.sqrt, [(1.0,)], ray=cluster.address, packages=("weightopt",)))


@pytest.mark.filterwarnings("ignore")
def test_no_cluster_at_an_address(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "")
    with pytest.raises(SpreadError, match=r"no cluster answers .*start one with `ray start --head`"):
        list(spread(math.sqrt, [(1.0,)], ray="127.0.0.1:1"))
