"""Weight tables: the one door from the solver to whoever trains with its weights.

This module needs numpy and the standard library only, so that a trainer can read a table without installing a solver.
A table is a JSON file (schema ``weightopt.table/1``) that carries its own proof: the problem it solves, the certificate
and a checksum over everything else in the file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weightopt.files import read_file, replace_file

SCHEMA = "weightopt.table/1"
MAX_FILE_BYTES = 64 * 2**20
MAX_GROUP_SIZE = 65536
SEARCHED = "search in a simulated world, a local optimum"  # method of a table about which nothing is certified


class TableError(ValueError):
    """A table, or a table file, that cannot be used; the message names the key and says what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightTable:
    """A prompt weighting as numbers: either a curve over the success probability, or advantages for one group size.

    A *curve* (``group_size`` is None) is callable at any success probability. A *group table* holds, for each number
    K = 0..M of correct responses, the advantage of a correct and of a wrong response.

    Parameters
    ----------
    name
        Name of the weighting, such as ``"sqrt-r"`` or ``"optimal"``.
    label
        How people read it; says "reconstruction" where the formula is ours and not the paper's.
    group_size
        M, responses per prompt, at least 2; None for a curve.
    rho
        Success probabilities in (0, 1), strictly increasing; in a group table these are K/M for K = 1..M-1.
    weight
        ω at each ``rho``, same length; finite, and positive in a curve, non-negative in a group table.
    all_wrong_advantage, all_right_advantage
        Advantage of each response when none, respectively all, of the group are correct. These are rules of their own:
        at these ends ω may be infinite.
    advantage_correct, advantage_wrong
        Length group_size + 1, or None. Advantage of a correct and of a wrong response, indexed by the number correct;
        None in a curve. The two entries that no response can have (correct at K = 0, wrong at K = M) are 0.
    problem, certificate
        What was solved and the proof of it; None for a named weighting, which solves nothing.
    provenance
        Method and versions. No date: building a table twice gives the same bytes.

    Raises
    ------
    TableError
        If any of the above does not hold.

    Examples
    --------
    >>> from weightopt import WeightTable
    >>> curve = WeightTable(
    ...     name="flat", label="Constant weight", group_size=None, rho=(0.1, 0.9), weight=(2.0, 2.0),
    ...     all_wrong_advantage=0.0, all_right_advantage=0.0,
    ... )
    >>> table = curve.for_group(4)
    >>> table.advantage_correct
    (0.0, 1.5, 1.0, 0.5, 0.0)
    """

    name: str
    label: str
    group_size: int | None
    rho: tuple[float, ...]
    weight: tuple[float, ...]
    all_wrong_advantage: float
    all_right_advantage: float
    advantage_correct: tuple[float, ...] | None = None
    advantage_wrong: tuple[float, ...] | None = None
    problem: Mapping[str, Any] | None = None
    certificate: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("name", "label"):
            if not isinstance(getattr(self, key), str) or not getattr(self, key):
                raise TableError(f"key '{key}' must be a non-empty string; build the table again.")
        for key in ("rho", "weight"):
            object.__setattr__(self, key, _floats(key, getattr(self, key)))
        for key in ("all_wrong_advantage", "all_right_advantage"):
            object.__setattr__(self, key, _floats(key, (getattr(self, key),))[0])
        if len(self.rho) < 1 or len(self.rho) != len(self.weight):
            raise TableError(
                f"keys 'rho' and 'weight' must have the same length, at least 1; found {len(self.rho)} and "
                f"{len(self.weight)}: build the table again."
            )
        rho = np.array(self.rho)
        if not (rho[0] > 0 and rho[-1] < 1 and np.all(np.diff(rho) > 0)):
            raise TableError("key 'rho' must be strictly increasing within (0, 1); sort it or build the table again.")
        if self.group_size is None:
            self._check_curve()
        else:
            self._check_group(rho)
        for key in ("problem", "certificate", "provenance"):
            value = getattr(self, key)
            if not (isinstance(value, Mapping) or (value is None and key != "provenance")):
                raise TableError(f"key '{key}' must be a JSON object; build the table again.")
        try:
            self.checksum  # noqa: B018
        except (TypeError, ValueError, RecursionError):
            raise TableError("keys must hold JSON values only, in Unicode text; build the table again.") from None

    def _check_curve(self) -> None:
        if min(self.weight) <= 0:
            raise TableError("key 'weight' of a curve must be positive everywhere; build the table again.")
        for key in ("advantage_correct", "advantage_wrong"):
            if getattr(self, key) is not None:
                raise TableError(f"key '{key}' must be null in a curve (group_size null); build the table again.")

    def _check_group(self, rho: NDArray[np.float64]) -> None:
        size = self.group_size
        if not isinstance(size, int) or isinstance(size, bool) or not 2 <= size <= MAX_GROUP_SIZE:
            raise TableError(f"key 'group_size' must be null or a whole number from 2 to {MAX_GROUP_SIZE}.")
        if len(rho) != size - 1 or np.max(np.abs(rho - np.arange(1, size) / size)) > 1e-12:
            raise TableError(
                f"key 'rho' of a group table must be k/{size} for k = 1..{size - 1}; build the table again."
            )
        if min(self.weight) < 0:
            raise TableError("key 'weight' must not be negative; build the table again.")
        for key in ("advantage_correct", "advantage_wrong"):
            values = getattr(self, key)
            values = _floats(key, () if values is None else values)
            if len(values) != size + 1:
                raise TableError(
                    f"key '{key}' must have group_size + 1 = {size + 1} numbers, found {len(values)}; "
                    "build the table again."
                )
            object.__setattr__(self, key, values)
        assert self.advantage_correct is not None
        assert self.advantage_wrong is not None
        for key, rule, value in (
            ("all_wrong_advantage", "advantage_wrong[0]", self.advantage_wrong[0]),
            ("all_right_advantage", "advantage_correct[group_size]", self.advantage_correct[-1]),
        ):
            if getattr(self, key) != value:
                raise TableError(f"key '{key}' must equal {rule}; build the table again.")

    def __call__(self, rho: ArrayLike) -> NDArray[np.float64]:
        """Weight of a curve at any success probability.

        Between grid points log ω is linear in log-odds, which is exact for a power law in ρ or 1-ρ; outside the grid
        the end value is held, so that no weight exceeds what the file shows.

        Parameters
        ----------
        rho
            Any shape, in (0, 1).

        Returns
        -------
        ndarray
            Of the same shape. ω(ρ) > 0.

        Raises
        ------
        TableError
            If this is a group table.
        ValueError
            If a value lies outside (0, 1).
        """
        if self.group_size is not None:
            raise TableError("a group table has no weight between its group's success rates; use a curve.")
        rho = np.asarray(rho, dtype=np.float64)
        if not np.all((rho > 0) & (rho < 1)):
            raise ValueError("a curve is defined for success probabilities in (0, 1); at 0 and 1 use the stated rules.")
        grid, at = np.array(self.rho), np.asarray(rho)
        log_odds = np.log(grid) - np.log1p(-grid)
        return np.exp(np.interp(np.log(at) - np.log1p(-at), log_odds, np.log(self.weight)))

    def for_group(self, group_size: int) -> WeightTable:
        """The table for groups of `group_size` responses: itself, or this curve evaluated at K/M.

        Parameters
        ----------
        group_size
            M, from 2 to 65536.

        Returns
        -------
        WeightTable
            A group table. Its provenance names the curve by checksum.

        Raises
        ------
        TableError
            If this is a group table of another size, or `group_size` is out of range.
        """
        if self.group_size is not None:
            if self.group_size != group_size:
                raise TableError(
                    f"key 'group_size' is {self.group_size} but {group_size} responses per prompt were asked for; "
                    f"build a table with --group-size {group_size}, or one without, which fits any size."
                )
            return self
        return group_table(
            self,
            group_size,
            name=self.name,
            label=self.label,
            all_wrong_advantage=self.all_wrong_advantage,
            all_right_advantage=self.all_right_advantage,
            problem=self.problem,
            certificate=self.certificate,
            provenance={**self.provenance, "curve": self.checksum},
        )

    def advantages(self, successes: ArrayLike, correct: ArrayLike) -> NDArray[np.float64]:
        """Advantages as a group table has them: whatever it says, nothing is centred or scaled here.

        Parameters
        ----------
        successes
            Number correct K of a response's group, 0 to M; any shape.
        correct
            Whether the response is correct; a shape that broadcasts with that of `successes`.

        Returns
        -------
        ndarray
            Of the common shape, float64: ``advantage_correct[K]`` where correct, else ``advantage_wrong[K]``.

        Raises
        ------
        TableError
            If this is a curve.
        """
        if self.group_size is None:
            raise TableError("a curve has advantages for a group size only: call for_group first.")
        at = np.asarray(successes, dtype=np.intp)
        if_correct = np.asarray(self.advantage_correct, dtype=np.float64)[at]
        if_wrong = np.asarray(self.advantage_wrong, dtype=np.float64)[at]
        return np.where(correct, if_correct, if_wrong)

    @property
    def loops(self) -> tuple[str, ...]:
        """Names of the loops that pay the clock which this table was solved for; none where the file does not say.

        ``fixed-batch`` and ``refill`` (dynamic sampling) are those of a trainer with groups; `made_for` says in words
        what is paid for.
        """
        named = self.provenance.get("loops")
        return tuple(name for name in named if isinstance(name, str)) if isinstance(named, list | tuple) else ()

    @property
    def made_for(self) -> str:
        """The loop that this table was solved for in one line; empty where the file does not say."""
        line = self.provenance.get("made_for")
        return line if isinstance(line, str) else ""

    def doubt(self, *, refilled: bool) -> str:
        """What follows the name of a table that was solved for another loop than a trainer's; empty if it was not.

        Parameters
        ----------
        refilled
            Whether the trainer draws others for uniform groups (dynamic sampling).
        """
        own, words = ("refill", "refills with") if refilled else ("fixed-batch", "draws a fixed batch, without")
        if not self.loops or own in self.loops:
            return ""
        return f"is not made for this run, which {words} dynamic sampling; it is made for: {self.made_for}"

    @property
    def checksum(self) -> str:
        """sha256 over the canonical form of every other key, as ``"sha256:<hex>"``."""
        return _checksum(self._document())

    def to_json(self) -> str:
        """The file's text: one key a line, floats in shortest round-trip form, checksum last."""
        document = self._document()
        document["checksum"] = _checksum(document)
        lines = (f"  {json.dumps(key)}: {_dump(value)}" for key, value in document.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def to_csv(self) -> str:
        """The same numbers as comma-separated text with one header line.

        A curve has columns rho, weight; a group table has one row per number correct, with the weight left empty
        where none correct or all correct make it a rule instead.
        """
        if self.group_size is None:
            rows = [("rho", "weight"), *((repr(r), repr(w)) for r, w in zip(self.rho, self.weight, strict=True))]
        else:
            assert self.advantage_correct is not None
            assert self.advantage_wrong is not None
            weights = ("", *map(repr, self.weight), "")
            rows = [("correct", "rho", "weight", "advantage_correct", "advantage_wrong")]
            for k in range(self.group_size + 1):
                rates = repr(k / self.group_size)
                rows.append((str(k), rates, weights[k], repr(self.advantage_correct[k]), repr(self.advantage_wrong[k])))
        return "".join(",".join(row) + "\n" for row in rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to `path`, whole or not at all (see `replace_file`)."""
        replace_file(path, self.to_json().encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WeightTable:
        """Read and check a table file.

        Raises
        ------
        TableError
            If the file cannot be read, or its schema, types, lengths, finiteness, order or checksum are wrong. The
            message starts with the path.
        """
        try:
            data = read_file(path, MAX_FILE_BYTES)
        except (OSError, ValueError) as error:  # ValueError: a path with a null byte
            reason = error.strerror if isinstance(error, OSError) else error
            raise TableError(f"{path}: cannot be read ({reason}); give the path of a table file.") from None
        if len(data) > MAX_FILE_BYTES:
            raise TableError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB, so not a weight table.")
        try:
            return cls.from_json(data.decode("utf-8-sig"))  # some editors put a byte order mark first
        except UnicodeDecodeError:
            raise TableError(f"{path}: not UTF-8 text, so not a weight table.") from None
        except TableError as error:
            raise TableError(f"{path}: {error}") from None

    @classmethod
    def from_json(cls, text: str) -> WeightTable:
        """Read a table from the text of a file; raises as `load` does, without the path."""
        try:
            document = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
            stated = document.pop("checksum", None) if isinstance(document, dict) else None
            checksum = _checksum(document)
        except TableError:
            raise
        except (ValueError, RecursionError):
            raise TableError("not a JSON document; give a file written by `weightopt solve` or `table`.") from None
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            found = document.get("schema") if isinstance(document, dict) else None
            raise TableError(f"key 'schema' must be {SCHEMA!r}, found {str(found)[:40]!r}; build the table again.")
        fields = {field.name for field in dataclasses.fields(cls)}
        wanted = fields | {"schema"}
        for key in sorted(wanted - document.keys()):
            raise TableError(f"key '{key}' is missing; build the table again.")
        for key in sorted(document.keys() - wanted):
            raise TableError(f"key {key[:40]!r} is unknown; remove it or build the table again.")
        if stated != checksum:
            raise TableError("key 'checksum' does not match the contents: the file was changed; build the table again.")
        return cls(**{key: value for key, value in document.items() if key in fields})

    def _document(self) -> dict[str, Any]:
        return {"schema": SCHEMA} | {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def group_table(
    weighting: Any,
    group_size: int,
    *,
    name: str,
    label: str,
    all_wrong_advantage: float,
    all_right_advantage: float,
    problem: Mapping[str, Any] | None = None,
    certificate: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> WeightTable:
    """Evaluate a weighting at K/M: A = ω(K/M)(r - K/M) in mixed groups, the two stated rules at K = 0 and K = M.

    Parameters
    ----------
    weighting
        ω, from an array of success probabilities in (0, 1) to weights of the same shape.
    group_size
        M, from 2 to 65536.
    name, label, all_wrong_advantage, all_right_advantage, problem, certificate, provenance
        As in `WeightTable`.

    Raises
    ------
    TableError
        If `group_size` is out of range or a weight is negative or not finite.
    """
    if not isinstance(group_size, int) or isinstance(group_size, bool) or not 2 <= group_size <= MAX_GROUP_SIZE:
        raise TableError(f"group size must be a whole number from 2 to {MAX_GROUP_SIZE}, got {group_size!r}.")
    rho = np.arange(1, group_size) / group_size
    weight = np.asarray(weighting(rho), dtype=np.float64)
    return WeightTable(
        name=name,
        label=label,
        group_size=group_size,
        rho=tuple(rho.tolist()),
        weight=tuple(weight.tolist()),
        all_wrong_advantage=float(all_wrong_advantage),
        all_right_advantage=float(all_right_advantage),
        advantage_correct=(0.0, *(weight * (1 - rho)).tolist(), float(all_right_advantage)),
        advantage_wrong=(float(all_wrong_advantage), *(0.0 - weight * rho).tolist(), 0.0),
        problem=problem,
        certificate=certificate,
        provenance=provenance or {},
    )


def _floats(key: str, values: Sequence[Any]) -> tuple[float, ...]:
    """The values as floats; anything but finite numbers is refused, booleans and numeric strings too."""
    if not isinstance(values, list | tuple):
        raise TableError(f"key '{key}' must be a list of numbers; build the table again.")
    for value in values:
        # abs() rather than math.isfinite: a whole number of a thousand digits is refused, not an OverflowError.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            found = repr(value)[:40]
            raise TableError(f"key '{key}' must hold finite numbers only, found {found}; build the table again.")
    return tuple(map(float, values))


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _checksum(document: Mapping[str, Any]) -> str:
    """Hash of the canonical form: sorted keys, no white space, shortest round-trip floats, UTF-8."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise TableError("a key stands twice; build the table again.")
    return document


def _refuse_constant(name: str) -> float:
    raise TableError(f"holds {name}, which is not a number a table may carry; build the table again.")
