"""What all benchmarks share: the machine they ran on, numbers with their spread, ratios formed round by round."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
# What makes the numbers of two processors differ most.
INSTRUCTIONS = ("avx2", "avx512f", "amx_tile", "asimd", "sve")


def machine(packages: Sequence[str], **more: object) -> dict[str, str]:
    """Where and with what this runs; a package that is not installed is left out."""
    model, found = platform.processor() or platform.machine(), ""
    with suppress(OSError):
        entries = {
            key.strip(): value.strip()
            for key, _, value in (
                line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            )
        }
        model = entries.get("model name", model)
        flags = entries.get("flags", entries.get("Features", "")).split()
        found = " ".join(name for name in INSTRUCTIONS if name in flags)
    about = {"CPU": model, "instructions": found or "unknown", "cores": str(os.cpu_count())}
    about |= {key: str(value) for key, value in more.items()}
    about |= {"load": load(), "python": platform.python_version()}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            about[package] = importlib.metadata.version(package)
    return about


def load() -> str:
    """Processes that want to run, mean over the last minute."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def introduce(about: dict[str, str]) -> None:
    """Print where this runs, in one line."""
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)


def cpu_seconds(command: Sequence[str]) -> tuple[float, float]:
    """Seconds on the wall and CPU seconds of a command and what it starts, with numerical libraries as users have them.

    Raises
    ------
    subprocess.CalledProcessError
        If it fails.
    """
    environment = {key: value for key, value in os.environ.items() if key not in THREADS}
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - begin, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def duration(seconds: float) -> str:
    """Three digits in a fitting unit."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 999.5:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def paired(ours: Sequence[float], *theirs: Sequence[float]) -> list[float]:
    """How many times as long the fastest of the others took, round by round; all have as many rounds."""
    return [min(others) / own for own, *others in zip(ours, *theirs, strict=True)]


def verdict(aim: float | None, reached: bool | None, unit: str = "") -> str:
    """What to say of an aim; nothing where there is none."""
    if aim is None or reached is None:
        return ""
    return f", aim {aim:g}{unit}: {'reached' if reached else 'MISSED'}"


def save(file: Path | None, about: dict[str, str], results: Sequence[Any]) -> None:
    """Write everything as JSON, if a file is named."""
    if file is not None:
        document = {"machine": about, "results": results}
        file.write_text(json.dumps(document, indent=1, default=float) + "\n", encoding="utf-8")


def on_one_thread() -> None:
    """Start the program again with numerical libraries on one thread: they read this when they are loaded."""
    if THREADS[0] not in os.environ:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **dict.fromkeys(THREADS, "1")})
