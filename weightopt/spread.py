"""Many independent calls of one function: on processes of this machine, or as tasks of a Ray cluster that is running.

Both start fresh interpreters that import the function by its name. Ray is this module's guest (extra ``ray``): it
places the tasks, and does those of a lost worker again. Standard library only, unless a cluster is asked for.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
import multiprocessing
import os
import platform
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, NamedTuple

INSTALL = "pip install 'weightopt[ray]'"
RETRIES = 10  # how often a task is done again whose worker was lost
ANSWER_SECONDS = 10.0
PENDING = 2  # batches a place is given ahead
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class SpreadError(RuntimeError):
    """A cluster that cannot be worked with; the message is one sentence."""


class _Engine(NamedTuple):
    """How batches are handed out: `submit` one, wait for the `first` that are done, how many `places` there are."""

    submit: Callable[[list[tuple[Any, ...]]], Any]
    first: Callable[[list[Any]], list[Any]]
    result: Callable[[Any], list[Any]]
    places: Callable[[], int]


def spread(
    function: Callable[..., Any],
    calls: Iterable[tuple[Any, ...]],
    *,
    workers: int = 1,
    ray: str | None = None,
    batch: int = 1,
    packages: Sequence[str] = (),
    environment: Mapping[str, str] = ONE_THREAD,
) -> Generator[tuple[int, Any], None, None]:
    """Make all calls; hand over the results as they come, each with the place of its call.

    Parameters
    ----------
    function
        At the top of a module, so that others can import it.
    calls
        Its arguments. At most `PENDING` batches a place are drawn from it ahead.
    workers
        Processes of this machine; 1 is this process itself.
    ray
        Address of a running cluster instead, or ``"auto"`` for the one that this machine is part of. A task whose node
        or worker is lost is done again elsewhere.
    batch
        Calls that are handed out together.
    packages
        Distributions whose versions must be the same everywhere, besides Python's.
    environment
        Variables set where they are not, before the function is imported.

    Raises
    ------
    SpreadError
        If Ray is not installed, there is no such cluster, or a worker has other versions.
    """
    numbered = enumerate(calls)
    if workers == 1 and ray is None:
        for number, arguments in numbered:
            yield number, function(*arguments)
        return
    name = f"{function.__module__}:{function.__qualname__}"
    engine = _processes(name, workers, environment) if ray is None else _cluster(name, ray, packages, environment)
    with engine as hands:
        pending: dict[Any, list[int]] = {}
        done = False
        while pending or not done:
            while not done and len(pending) < PENDING * hands.places():
                taken = list(itertools.islice(numbered, batch))
                if not taken:
                    done = True
                    break
                pending[hands.submit([arguments for _, arguments in taken])] = [number for number, _ in taken]
            if pending:
                for each in hands.first(list(pending)):
                    yield from zip(pending.pop(each), hands.result(each), strict=True)


def in_order(results: Iterable[tuple[int, Any]]) -> Iterator[Any]:
    """The results of `spread` in the order of the calls; those that come early are kept until it is their turn."""
    early: dict[int, Any] = {}
    wanted = 0
    for number, result in results:
        early[number] = result
        while wanted in early:
            yield early.pop(wanted)
            wanted += 1


@contextmanager
def _processes(name: str, workers: int, environment: Mapping[str, str]) -> Iterator[_Engine]:
    # Workers are small programs with one thread each: linear algebra this small is slower with more.
    for variable, value in environment.items():
        os.environ.setdefault(variable, value)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with, initargs=(os.getpid(),))

    def submit(calls: list[tuple[Any, ...]]) -> Future[list[Any]]:
        # Workers start here. What a terminal sends to each at Ctrl-C is for this process to answer.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return pool.submit(_call, name, calls)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def first(pending: list[Future[list[Any]]]) -> list[Future[list[Any]]]:
        done = wait(pending, return_when=FIRST_COMPLETED).done
        return [each for each in pending if each in done]

    try:
        yield _Engine(submit, first, Future.result, lambda: workers)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def check_cluster(address: str | None) -> None:
    """See that there is a cluster at an address, before anything is written; None: none is asked for.

    Raises
    ------
    SpreadError
        If Ray is not installed, or no cluster answers.
    """
    if address is not None:
        ray, began = _connect(address)
        if began:
            ray.shutdown()


def _connect(address: str) -> tuple[Any, bool]:
    """Ray, connected to a cluster, and whether it was not before."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise SpreadError(f"--ray needs ray, which is not installed: {INSTALL}") from None
    if ray.is_initialized():
        return ray, False
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SpreadError(
            f"--ray {address}: no cluster answers ({reason}); start one with `ray start --head`, or give the address "
            "of one, HOST:PORT"
        ) from None
    return ray, True


def _knock(address: str) -> None:
    """See that somebody listens at HOST:PORT, for Ray goes on asking for minutes; other forms are left to Ray."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()


@contextmanager
def _cluster(name: str, address: str, packages: Sequence[str], environment: Mapping[str, str]) -> Iterator[_Engine]:
    ray, began = _connect(address)
    versions = _versions(packages)
    remote = ray.remote(_call_elsewhere).options(num_cpus=1, max_retries=RETRIES)
    known = ray.put((name, versions, dict(environment)))

    def first(pending: list[Any]) -> list[Any]:
        return ray.wait(pending, num_returns=1)[0]

    def result(reference: Any) -> list[Any]:
        pending.discard(reference)
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:  # what the function itself raised
            raise error.cause from None
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:200]
            raise SpreadError(f"--ray {address}: a task could not be done ({reason})") from None

    pending: set[Any] = set()

    def submit(calls: list[tuple[Any, ...]]) -> Any:
        reference = remote.remote(known, calls)
        pending.add(reference)
        return reference

    try:
        yield _Engine(submit, first, result, lambda: max(1, int(ray.cluster_resources().get("CPU", 1))))
    except BaseException:
        for reference in pending:
            ray.cancel(reference, force=True)
        raise
    finally:
        if began:
            ray.shutdown()


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def _call_elsewhere(known: tuple[str, Mapping[str, str], Mapping[str, str]], calls: list[tuple[Any, ...]]) -> list[Any]:
    """Make calls on a node of a cluster, if it has the versions that the results are stated to follow from."""
    name, versions, environment = known
    for variable, value in environment.items():
        os.environ[variable] = value
    for package, version in versions.items():
        here = platform.python_version() if package == "python" else importlib.metadata.version(package)
        if here != version:
            raise SpreadError(
                f"a worker on node {platform.node()} has {package} {here} and this process {version}; install the same"
            )
    return _call(name, calls)


def _call(name: str, calls: list[tuple[Any, ...]]) -> list[Any]:
    module, _, function = name.partition(":")
    called = getattr(importlib.import_module(module), function)
    return [called(*arguments) for arguments in calls]


def _end_with(parent: int) -> None:
    """End this worker when the process that started it is gone, however it went."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
