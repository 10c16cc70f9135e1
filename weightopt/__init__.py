"""Time-optimal prompt weights for reinforcement learning with verifiable rewards.

Nine names, each loaded when it is first used. `weightopt.table` alone needs numpy and the standard library only.

Examples
--------
>>> import weightopt
>>> answer = weightopt.solve(weightopt.Problem(start=0.01, target=0.9, clock="effective"))
>>> print(answer.status.name, f"{answer.time:.4f}")
OPTIMAL 28.4254
>>> table = answer.table(group_size=16)
>>> table.advantage_correct[3] > 0 > table.advantage_wrong[3]
True
>>> grpo = weightopt.catalogue.WEIGHTINGS["grpo"]
>>> float(grpo(0.5))
2.0
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from theory import catalogue
    from weightopt.comparison import compare
    from weightopt.curves.problem import Problem
    from weightopt.groups.group import GroupProblem
    from weightopt.groups.start_range import RangeProblem
    from weightopt.kinds import solve
    from weightopt.populations.group_population import GroupPopulationProblem
    from weightopt.populations.problem import PopulationProblem
    from weightopt.table import WeightTable

_HOMES = {
    "GroupPopulationProblem": "weightopt.populations.group_population",
    "GroupProblem": "weightopt.groups.group",
    "Problem": "weightopt.curves.problem",
    "PopulationProblem": "weightopt.populations.problem",
    "RangeProblem": "weightopt.groups.start_range",
    "WeightTable": "weightopt.table",
    "catalogue": "theory.catalogue",
    "compare": "weightopt.comparison",
    "solve": "weightopt.kinds",
}
__all__ = [
    "GroupPopulationProblem",
    "GroupProblem",
    "PopulationProblem",
    "Problem",
    "RangeProblem",
    "WeightTable",
    "catalogue",
    "compare",
    "solve",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'weightopt' has no attribute {name!r}")
    home = importlib.import_module(_HOMES[name])
    value = home if name == "catalogue" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
