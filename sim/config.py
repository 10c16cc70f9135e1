"""What a sweep is: TOML written by hand, or options of the command line, read into frozen records.

A key that is not known here is an error that names the nearest there is; a value out of range names the range. The
resolved configuration, every value stated, lies beside the results as JSON.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from sim.errors import UsageError

LARGEST_WORLD = 4 * 10**8  # numbers in a world's largest array: 3 GB


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a key may hold: says whether a value fits, makes it the type we use, and describes itself for people."""

    text: str
    many: bool = False
    choices: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    optional: bool = False

    def read(self, value: Any) -> Any:
        """The value as we use it; ValueError if it does not fit."""
        if self.many:
            items = value if isinstance(value, list | tuple) else [value]
            if not items or len(set(map(str, items))) < len(items):
                raise ValueError
            return tuple(self._one(item) for item in items)
        return None if value is None and self.optional else self._one(value)

    def _one(self, value: Any) -> Any:
        if self.choices or not math.isfinite(self.high):
            fits = isinstance(value, str) and value and (not self.choices or value in self.choices)
            if not fits:
                raise ValueError
            return value
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            raise ValueError
        if not self.low <= value <= self.high:
            raise ValueError
        return value if self.whole else float(value)


def _key(kind: Kind, default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"kind": kind})


def _whole(low: int, high: int, default: int) -> Any:
    return _key(Kind(f"a whole number from {low} to {high}", low=low, high=high, whole=True), default)


def _number(low: float, high: float, default: float | None, *, optional: bool = False) -> Any:
    return _key(Kind(f"a number from {low:g} to {high:g}", low=low, high=high, optional=optional), default)


def _numbers(low: float, high: float, default: tuple[float, ...]) -> Any:
    kind = Kind(f"one or more different numbers from {low:g} to {high:g}", many=True, low=low, high=high)
    return _key(kind, default)


def _choice(*choices: str) -> Any:
    return _key(Kind(f"one of {', '.join(choices)}", choices=choices), choices[0])


def _texts(what: str, default: tuple[str, ...]) -> Any:
    return _key(Kind(f"one or more different {what}", many=True), default)


@dataclasses.dataclass(frozen=True)
class MeasuresConfig:
    """``[measures]``: targets of mean success; a quantile over prompts and its target; what counts as lifted."""

    targets: tuple[float, ...] = _numbers(1e-6, 1 - 1e-6, (0.5, 0.8))
    quantile: float = _number(0, 1, 0.1)
    quantile_target: float = _number(1e-6, 1 - 1e-6, 0.5)
    lifted: float = _number(1e-6, 1 - 1e-6, 0.5)


@dataclasses.dataclass(frozen=True)
class WarmUpConfig:
    """``[warm_up]``: the push on all-wrong groups is held back for so many steps, at 0 or growing in proportion."""

    steps: int = _whole(0, 10**9, 0)
    shape: Literal["hold", "ramp"] = _choice("hold", "ramp")


@dataclasses.dataclass(frozen=True)
class TabularConfig:
    """``[tabular]``: V answers, of which so many are right; see `sim.tabular`."""

    answers: int = _whole(2, 65536, 32)
    right: int = _whole(1, 65535, 1)
    spread: float = _number(0, 10, 1.0)
    gradient: Literal["natural", "vanilla"] = _choice("natural", "vanilla")


@dataclasses.dataclass(frozen=True)
class SharedConfig:
    """``[shared]``: skills that prompts share, and where the policy starts; see `sim.shared`."""

    skills: int = _whole(1, 4096, 32)
    skills_per_prompt: int = _whole(1, 4096, 4)
    conflict: float = _number(0, 0.5, 0.0)
    gradient: Literal["natural", "vanilla"] = _choice("natural", "vanilla")
    damping: float = _number(1e-9, 1e3, 1e-3)
    start: Literal["scratch", "sft"] = _choice("scratch", "sft")
    sft_success: float = _number(1e-6, 1 - 1e-6, 0.4)
    sft_share: float = _number(0.001, 1, 0.5)


@dataclasses.dataclass(frozen=True)
class Config:
    """A sweep: every population with every weighting, step size and seed.

    ``step_sizes`` are η. With ``equal_budget = [start, target]`` each weighting is scaled first so that its drift
    budget ∫u dρ between the two is 1 (in the large-group limit: ∫ω dρ), and η means the same for all. ``most_groups``
    above 1 is dynamic sampling for all weightings; at 1 only those that are defined by it (dapo) draw again, up to 64
    groups. ``all_wrong`` replaces the advantage in all-wrong groups. ``record_every`` 0 means about 200 records.
    ``threads`` 0 means all cores, and changes no number; nor does ``save_every``, seconds between checkpoints.
    """

    world: Literal["binary", "tabular", "shared"] = _choice("binary", "tabular", "shared")
    engine: Literal["finite-sample", "mean-field", "large-group"] = _choice(
        "finite-sample", "mean-field", "large-group"
    )
    step_model: Literal["ratio", "outcome"] = _choice("ratio", "outcome")
    weightings: tuple[str, ...] = _texts(
        "names of `weightopt list` or table files", ("grpo", "rloo", "linear-r", "sqrt-r")
    )
    populations: tuple[str, ...] = _texts("populations such as constant:0.01 or beta:0.3,3", ("beta:0.3,3",))
    step_sizes: tuple[float, ...] = _numbers(1e-9, 1e6, (0.05,))
    equal_budget: tuple[float, ...] = _key(
        Kind("two numbers, start and target, from 1e-12 to 1-1e-12", many=True, low=1e-12, high=1 - 1e-12), ()
    )
    seeds: int = _whole(1, 100_000, 5)
    first_seed: int = _whole(0, 2**62, 0)
    prompts: int = _whole(1, 10**8, 1000)
    group_size: int = _whole(2, 65536, 16)
    steps: int = _whole(1, 10**9, 1000)
    record_every: int = _whole(0, 10**9, 0)
    most_groups: int = _whole(1, 1_000_000, 1)
    all_wrong: float | None = _number(-1e6, 1e6, None, optional=True)
    threads: int = _whole(0, 1024, 0)
    save_every: float = _number(0, 1e9, 30.0)
    measures: MeasuresConfig = MeasuresConfig()
    warm_up: WarmUpConfig = WarmUpConfig()
    tabular: TabularConfig = TabularConfig()
    shared: SharedConfig = SharedConfig()

    def __post_init__(self) -> None:
        if self.equal_budget and not (len(self.equal_budget) == 2 and self.equal_budget[0] < self.equal_budget[1]):
            raise UsageError("config key 'equal_budget' must be two numbers in (0, 1), start before target")
        if self.world != "binary" and self.engine != "finite-sample":
            raise UsageError(f"world {self.world!r} samples its responses: config key 'engine' must be finite-sample")
        if self.world == "tabular":
            if self.tabular.right >= self.tabular.answers:
                raise UsageError("config key 'tabular.right' must be below tabular.answers")
            if self.tabular.gradient == "vanilla" and self.step_model != "ratio":
                raise UsageError("tabular.gradient 'vanilla' has one step model: config key 'step_model' must be ratio")
        width = {"binary": 1, "tabular": self.tabular.answers, "shared": self.shared.skills}[self.world]
        if self.prompts * width > LARGEST_WORLD:
            what = {"tabular": "tabular.answers", "shared": "shared.skills"}[self.world]
            raise UsageError(
                f"config keys 'prompts' and '{what}' ask for {self.prompts * width} numbers; their product must be at "
                f"most {LARGEST_WORLD}"
            )
        if self.shared.skills_per_prompt > self.shared.skills:
            raise UsageError("config key 'shared.skills_per_prompt' must be at most shared.skills")

    def to_json(self) -> dict[str, Any]:
        """Every value, as JSON types."""
        return dataclasses.asdict(self)


def load_config(path: Path | None, changes: Mapping[str, Any] | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Parameters
    ----------
    path : Path or None
        TOML file; None for the defaults.
    changes : mapping, optional
        Top-level keys to replace.
    overrides : sequence of str
        ``"key=value"`` or ``"section.key=value"`` each, applied last; the value is read as TOML, or as a string.

    Raises
    ------
    UsageError
        If the file cannot be read, is not TOML, or holds an unknown key or a value out of range.
    """
    document: dict[str, Any] = {}
    if path is not None:
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"config {str(path)!r} cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"config {str(path)!r} is not TOML: {error}") from None
    document.update(changes or {})
    for override in overrides:
        _override(document, override)
    return _read(Config, document, "")


def _override(document: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise UsageError(f"--set {override!r} is not of the form key=value or section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = key.split(".")
    for section in sections:
        document = document.setdefault(section, {})
        if not isinstance(document, dict):
            raise UsageError(f"--set {override!r}: {section!r} is not a section")
    document[last] = value


def _read(type_: Any, document: Any, prefix: str) -> Any:
    """A record of `type_` from a dictionary whose keys stand behind `prefix`."""
    if not isinstance(document, Mapping):
        raise UsageError(f"config key {prefix.rstrip('.')!r} must be a section")
    fields = {field.name: field for field in dataclasses.fields(type_)}
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key not in fields:
            (near,) = get_close_matches(key, fields, n=1, cutoff=0.0)
            raise UsageError(
                f"config key {prefix + key!r} is unknown; the nearest is {prefix + near!r} (known here: "
                f"{', '.join(sorted(fields))})"
            )
        if "kind" not in fields[key].metadata:
            values[key] = _read(type(fields[key].default), value, f"{prefix}{key}.")
            continue
        kind: Kind = fields[key].metadata["kind"]
        try:
            values[key] = kind.read(value)
        except ValueError:
            raise UsageError(f"config key {prefix + key!r} is {value!r}; it must be {kind.text}") from None
    return type_(**values)
