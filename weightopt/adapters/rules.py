"""What a host's settings do to the meaning of a table, as data: rules that `weightopt doctor` and the adapters read.

A host's rules stand in a module that does not import the host, so that a configuration can be judged on any machine.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from weightopt.table import WeightTable

# The weight is not the table's; it is the table's times something else, or beside something else; nothing changes.
Severity = Literal["refuse", "warn", "note"]

INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")
INTERPOLATIONS_IN_A_ROW = 16
TABLE = "table"  # what is amiss where no setting is


class _Unreadable:
    """A setting whose value a file does not show."""

    def __repr__(self) -> str:
        return "?"


UNREADABLE = _Unreadable()


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run as the configuration of its host has them, and the table it is to train with.

    Parameters
    ----------
    given
        Nested or flat; values may be `UNREADABLE`.
    table
        None: no rule about it applies.
    """

    given: Mapping[str, Any]
    table: WeightTable | None = None

    @property
    def group_size(self) -> int | None:
        """M of the table; None for a curve, or without a table."""
        return None if self.table is None else self.table.group_size

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a dotted key, or `default`; ``${other.key}`` is followed, what else has ``${`` is unreadable."""
        value = self._raw(key, default)
        for _ in range(INTERPOLATIONS_IN_A_ROW):
            if not isinstance(value, str) or "${" not in value:
                return value
            reference = INTERPOLATION.fullmatch(value)
            if reference is None:
                return UNREADABLE
            value = self._raw(reference[1], UNREADABLE)
        return UNREADABLE

    def _raw(self, key: str, default: Any) -> Any:
        if key in self.given:
            return self.given[key]
        value: Any = self.given
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """One setting of a host, and when it changes what a table means.

    Parameters
    ----------
    setting
        Its key in the host's configuration, dotted.
    default
        What the host takes where the configuration is silent, in the versions that are tested.
    amiss
        Whether this value of the setting changes something, given all settings.
    severity
        ``"refuse"``: the weight would not be the table's; ``"warn"``: something is added to it; ``"note"``: the setting
        has no effect.
    meaning
        What it does; continues "TRL: beta=0.04".
    instead
        The line to write instead.
    """

    setting: str
    default: Any = None
    amiss: Callable[[Any, Settings], bool]
    severity: Severity = "warn"
    meaning: str | Callable[[Settings], str]
    instead: str | Callable[[Settings], str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A rule that applies."""

    host: str
    setting: str
    value: Any
    severity: Severity
    meaning: str
    instead: str

    @property
    def sentence(self) -> str:
        """What the user is told: host, setting, what it does, and the line to write instead."""
        return f"{self.host}: {self.setting}={_short(self.value)} {self.meaning}; write {self.instead}."


@dataclasses.dataclass(frozen=True)
class Plugin:
    """Whether a host finds our part of it by itself.

    Parameters
    ----------
    loaded
        Whether it will.
    why
        How, or why not; one sentence.
    """

    loaded: bool
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Host:
    """A trainer that can take a table.

    Parameters
    ----------
    key, name
        What it is called on the command line, and to people.
    distribution
        The package whose version is looked up.
    tested
        The versions that the adapter has been run in, oldest first; empty: written to the interface of ``written_for``.
    written_for
        The versions whose interface it is written to, where it has been run in none.
    lines
        What a user adds to train with a table.
    rules
        In the order in which they are reported.
    recognises
        Whether a configuration is one of this host.
    constructors
        Names of classes whose keyword arguments are the settings, looked for in Python files.
    plugin
        Says whether the host will load our part; None where the user imports it.
    refills
        The settings with which it draws others for uniform groups.
    """

    key: str
    name: str
    distribution: str
    tested: tuple[str, ...] = ()
    written_for: tuple[str, ...] = ()
    lines: str
    rules: tuple[Rule, ...]
    recognises: Callable[[Mapping[str, Any]], bool]
    constructors: tuple[str, ...] = ()
    plugin: Callable[[], Plugin] | None = None
    refills: tuple[str, ...] = ()

    def findings(self, given: Mapping[str, Any], table: WeightTable | None = None) -> list[Finding]:
        """What the settings of a run do to the table, in the order of the rules, and whether it is for this loop."""
        settings = Settings(given, table)
        found = [finding for rule in self.rules if (finding := self._apply(rule, settings)) is not None]
        return [*found, *self._other_loop(settings)]

    def _other_loop(self, settings: Settings) -> list[Finding]:
        refills = [settings.get(key) for key in self.refills]
        if settings.table is None or any(value is UNREADABLE for value in refills):
            return []
        doubt = settings.table.doubt(refilled=any(refills))
        if not doubt:
            return []
        instead = "one that is solved for this loop, such as with --clock regular"
        return [
            Finding(
                host=self.name,
                setting=TABLE,
                value=settings.table.label,
                severity="warn",
                meaning=doubt,
                instead=instead,
            )
        ]

    def _apply(self, rule: Rule, settings: Settings) -> Finding | None:
        value = settings.get(rule.setting, rule.default)
        severity, meaning = rule.severity, rule.meaning
        if value is UNREADABLE:
            severity, meaning = "note", "cannot be read from this file: see that it is as below"
        else:
            try:
                if not rule.amiss(value, settings):
                    return None
            except (TypeError, ValueError):  # a value of another type than the host takes
                severity, meaning = "refuse", f"is no value that {self.name} takes"
        return Finding(
            host=self.name,
            setting=rule.setting,
            value=value,
            severity=severity,
            meaning=meaning if isinstance(meaning, str) else meaning(settings),
            instead=rule.instead if isinstance(rule.instead, str) else rule.instead(settings),
        )


def sentences(findings: Sequence[Finding], severity: Severity) -> str:
    """The sentences of one severity, one after the other; empty if there is none."""
    return " ".join(finding.sentence for finding in findings if finding.severity == severity)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
