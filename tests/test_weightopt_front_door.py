"""`import weightopt`: nine names, loaded when they are used, each with an example that is run."""

import doctest
import importlib
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

import weightopt
from weightopt import kinds
from weightopt.answer import Check, Promise, Status
from weightopt.errors import ProblemError, SolverError

ROOT = Path(__file__).resolve().parent.parent
PROBLEMS = ["Problem", "GroupProblem", "RangeProblem", "PopulationProblem", "GroupPopulationProblem"]
NAMES = [*PROBLEMS, "solve", "compare", "WeightTable", "catalogue"]


def loaded_by(code: str) -> list[str]:
    """Modules that a new interpreter has loaded after `code`."""
    report = "; import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + report], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_nine_names():
    assert set(weightopt.__all__) == set(NAMES)
    assert set(NAMES) <= set(dir(weightopt))
    for name in NAMES:
        assert getattr(weightopt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'solution'"):
        weightopt.solution  # noqa: B018


def test_the_package_itself_loads_nothing():
    assert {name for name in loaded_by("import weightopt") if name.startswith("weightopt")} == {"weightopt"}
    assert "numpy" not in loaded_by("import weightopt")
    light = loaded_by("import weightopt; weightopt.WeightTable")
    assert {name for name in light if name.startswith("weightopt")} == {
        *("weightopt", "weightopt.files", "weightopt.table"),
    }
    assert {"theory", "scipy", "cvxpy"}.isdisjoint(light)


@pytest.mark.slow
def test_solving_directly_loads_no_cvxpy():
    code = "import weightopt; weightopt.solve(weightopt.Problem(0.1, 0.9, 'regular'))"
    assert {"cvxpy", "matplotlib", "pandas", "typer"}.isdisjoint(loaded_by(code))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_an_example_that_holds(name):
    module = importlib.import_module("weightopt" if name == "catalogue" else weightopt._HOMES[name])
    tests = [test for test in doctest.DocTestFinder(recurse=True).find(module, module.__name__) if test.examples]
    wanted = "weightopt" if name == "catalogue" else f"{module.__name__}.{name}"
    assert wanted in [test.name for test in tests]
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    for test in tests:
        if test.name == wanted:
            assert runner.run(test).failed == 0


CURVE = weightopt.Problem(0.01, 0.9, "effective")
GROUP = weightopt.GroupProblem(CURVE, 4)
RANGE = weightopt.RangeProblem(GROUP, 0.1)
POPULATION = weightopt.PopulationProblem("two", (0.1, 0.5), (1, 1), 0.6)


@pytest.mark.parametrize("problem", [CURVE, GROUP, RANGE, POPULATION], ids=lambda problem: problem.kind)
def test_every_kind_states_itself_and_is_read_back(problem):
    values = json.loads(json.dumps(problem.to_dict()))
    assert values["kind"] == problem.kind
    assert kinds.read_problem(values) == problem
    older = {key: value for key, value in values.items() if key != "kind"}  # as files of version 0.1 hold it
    assert kinds.read_problem(older) == problem
    with pytest.raises(ProblemError):
        type(problem).from_dict({**values, "kind": "other"})


@pytest.mark.parametrize("kind", ["other", None, 3, [], "Curve"])
def test_a_kind_that_is_none_is_refused(kind):
    with pytest.raises(ProblemError) as caught:
        kinds.read_problem({**CURVE.to_dict(), "kind": kind})
    assert caught.value.field == "kind"


@pytest.mark.slow
@pytest.mark.parametrize("problem", [CURVE, GROUP, RANGE, POPULATION], ids=lambda problem: problem.kind)
def test_an_answer_tells_all_of_itself(problem):
    answer = weightopt.solve(problem)
    document = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert document["problem"] == json.loads(json.dumps(problem.to_dict()))
    assert all(check["passed"] for check in document["checks"])
    assert {"budget", "constraints"} <= {check["name"] for check in document["checks"]}
    assert document["lower_bound"] <= document.get("time", document.get("worst_ratio")) * (1 + 1e-9)
    shown = str(answer)
    assert shown.startswith(answer.headline())
    for name, text in answer.facts().items():
        assert f"  {name:<12} {text}" in shown
    assert answer.status is (Status.BEST_FOUND if problem is POPULATION else Status.OPTIMAL)
    assert answer.table().problem == problem.to_dict()


@pytest.mark.parametrize(("problem", "able"), [(RANGE, "direct"), (POPULATION, "direct")], ids=["range", "population"])
@pytest.mark.parametrize("method", ["convex", "ode-check", "magic"])
def test_a_method_that_cannot_names_those_that_can(problem, able, method):
    with pytest.raises(ProblemError, match=f"must be {able}, got '{method}'"):
        weightopt.solve(problem, method)


def test_uncentred_tables_have_no_convex_road():
    uncentred = weightopt.GroupProblem(CURVE, 4, "ratio", "advantage-variance", "free", False)
    with pytest.raises(ProblemError, match="direct can"):
        weightopt.solve(uncentred, "convex")


@pytest.mark.parametrize("problem", [CURVE, GROUP], ids=lambda problem: problem.kind)
def test_the_differential_equation_arrives_when_the_certificate_says(problem):
    answer = weightopt.solve(problem, "ode-check")
    (check,) = answer.cross_checks
    assert check.name == "ode"
    assert check.value < 1e-9
    assert "arrives at" in str(answer)


def test_a_failed_check_is_named():
    answer = weightopt.solve(CURVE)
    import dataclasses

    broken = dataclasses.replace(answer, cross_checks=(Check("ode", 0.5, 1e-9),))
    assert broken.status is Status.UNCERTIFIED
    with pytest.raises(SolverError, match=r"ode 5.0e-01, tolerance 1e-09"):
        broken.certified()
    assert dataclasses.replace(answer, promise=Promise(0.0, 0.0)).status is Status.UNCERTIFIED


def test_a_fifth_kind_is_one_module(monkeypatch):
    module = types.ModuleType("fifth")

    class Fifth:
        kind = "fifth"

        @classmethod
        def from_dict(cls, values):
            assert values["kind"] == "fifth"
            return cls()

    module.Fifth, module.solve = Fifth, lambda problem, throw: (problem, throw)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "fifth", module)
    monkeypatch.setattr(kinds, "KINDS", {**kinds.KINDS, "fifth": ("fifth", "Fifth")})
    problem = kinds.read_problem({"kind": "fifth"})
    assert weightopt.solve(problem) == (problem, True)


def test_comparing_takes_curves_and_tables_only():
    with pytest.raises(ProblemError, match="curve or group"):
        weightopt.compare(RANGE)  # pyright: ignore[reportArgumentType, reportCallIssue]
