"""What the page asks: words as a user types them, the command line that they are, and the problem that they pose.

A question is made of the same records that ``weightopt solve`` fills from its options, so that the page and the command
line cannot differ in a default.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from weightopt.commands.options import CurveOptions, TableOptions, Way
from weightopt.curves.problem import Problem
from weightopt.errors import ProblemError
from weightopt.groups.group import GroupProblem

Form = Literal["curve", "table", "plug-in"]
# What is asked for, and how it is called.
FORMS: dict[Form, str] = {
    "curve": "curve, very large groups",
    "table": "best table for groups of M",
    "plug-in": "curve, read in groups of M",
}
FILE = "table.json"
# Options that shape a curve, and those that describe a table: which of them a form has.
SHAPING = ("min_weight", "max_weight", "max_ratio", "monotone")
TABLE = ("shape", "budget_kind")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A problem in the words of a user; numbers are text, and an empty one leaves the option away.

    Parameters
    ----------
    form
        What is asked for; a key of `FORMS`.
    start, target, clock, budget, group_size, min_weight, max_weight, max_ratio, monotone, shape, budget_kind
        As the options of ``weightopt solve``. Those that the form does not have are not read.
    """

    form: Form = "curve"
    start: str = "0.01"
    target: str = "0.9"
    clock: str = "regular"
    budget: str = "1"
    group_size: str = "16"
    min_weight: str = ""
    max_weight: str = ""
    max_ratio: str = ""
    monotone: str = ""
    shape: str = TableOptions.shape
    budget_kind: str = TableOptions.budget_kind

    def problem(self) -> Problem:
        """The curve problem; of a best table it is the one without constraints.

        Raises
        ------
        ProblemError
            In the name of the option that is wrong.
        """
        way = Way(target=self._number("target"), clock=self.clock.strip(), budget=self._number("budget"))
        start = self._number("start")
        if self.form == "table":
            return way.problem(start)
        curve = CurveOptions(
            min_weight=self._number("min_weight") if self.min_weight.strip() else 0.0,
            max_weight=self._number("max_weight") if self.max_weight.strip() else None,
            max_ratio=self._number("max_ratio") if self.max_ratio.strip() else None,
            monotone=self.monotone or None,
        )
        return way.problem(start, **curve.constraints())

    def group(self) -> GroupProblem | None:
        """The problem that tables for groups are measured by: that of a best table, or of a curve read at K/M.

        None for very large groups.

        Raises
        ------
        ProblemError
            In the name of the option that is wrong.
        """
        if self.form == "curve":
            return None
        try:
            size = int(self.group_size)
        except ValueError:
            raise ProblemError("group_size", f"must be a whole number, got {self.group_size.strip()[:40]!r}") from None
        curve = self.problem().unconstrained
        if self.form == "plug-in":  # `solve` and the page measure it by the budget that the curve has
            return GroupProblem(curve, size, budget_kind="drift")
        return TableOptions(shape=self.shape, budget_kind=self.budget_kind).problem(curve, size)

    def words(self) -> list[str]:
        """The command line of ``weightopt`` that writes the same file."""
        said = {name: getattr(self, name).strip() for name in ("start", "target", "clock")}
        if _differs(self.budget, Way.budget):
            said["budget"] = self.budget.strip()
        if self.form != "curve":
            said["group_size"] = self.group_size.strip()
        for name in TABLE if self.form == "table" else SHAPING:
            default = getattr(TableOptions if name in TABLE else CurveOptions, name)
            if getattr(self, name).strip() and _differs(getattr(self, name), default):
                said[name] = getattr(self, name).strip()
        options = [word for name, value in said.items() for word in (f"--{name.replace('_', '-')}", value)]
        return ["solve", *options, *(["--plug-in"] if self.form == "plug-in" else []), "--output", FILE]

    def _number(self, name: str) -> float:
        text = getattr(self, name).strip()
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isnan(value):
            raise ProblemError(name, f"must be a number, got {text[:40]!r}")
        return value


def _differs(text: str, default: float | str | None) -> bool:
    """Whether a text means another value than the default."""
    try:
        return float(text) != default
    except ValueError:
        return text.strip() != default
