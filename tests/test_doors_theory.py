"""Formulas are pure: in `theory` nothing opens a file, draws a random number or prints."""

import ast
from pathlib import Path

import pytest

MODULES = sorted((Path(__file__).resolve().parent.parent / "theory").rglob("*.py"))
FORBIDDEN_CALLS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}
FORBIDDEN_ATTRIBUTES = {"random", "default_rng", "read_text", "write_text", "read_bytes", "write_bytes"} | {
    "save",
    "load",
    "savetxt",
    "loadtxt",
    "tofile",
    "fromfile",
}
ALLOWED_IMPORTS = {
    "__future__",
    "collections",
    "dataclasses",
    "functools",  # constants that are computed once, read-only
    "heapq",
    "itertools",
    "math",
    "typing",
    "numpy",
    "scipy",
    "theory",
}


def faults(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and node.id in FORBIDDEN_CALLS:
            found.append(node.id)
        if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_ATTRIBUTES:
            found.append(node.attr)
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.partition(".")[0] not in ALLOWED_IMPORTS]
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] not in ALLOWED_IMPORTS:
            found.append(node.module or "relative import")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_of_theory_is_pure(path):
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source", ["print(1)", "open('x')", "import random", "np.random.rand()", "from pathlib import Path", "import os"]
)
def test_the_check_sees_what_it_forbids(source):
    assert faults(source)


def test_there_are_modules_to_check():
    assert {"paper.py", "published.py", "weighting.py", "clocks.py", "dynamics.py", "closed_forms.py"} <= {
        p.name for p in MODULES
    }
