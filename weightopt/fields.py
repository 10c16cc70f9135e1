"""A problem's fields as JSON and back: every kind of problem names its kind and refuses what it does not know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from weightopt.errors import ProblemError


def read_fields(
    kind: str, values: Mapping[str, Any], names: Iterable[str], later: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The fields of a serialised problem, without its kind.

    Parameters
    ----------
    kind
        The kind of problem that is read. Files of version 0.1 do not state it.
    values
        What `to_dict` returned.
    names
        Every field that the problem has.
    later
        Fields that came after the first files, with the value that a file without them means.

    Raises
    ------
    ProblemError
        If the kind is another one, or a field is missing or unknown.
    """
    names = list(names)
    fields = {**(later or {}), **values}
    if fields.pop("kind", kind) != kind:
        raise ProblemError("kind", f"must be {kind}, got {str(values['kind'])[:40]!r}")
    for name in names:
        if name not in fields:
            raise ProblemError(name, "is missing")
    for name in fields:
        if name not in names:
            raise ProblemError(str(name)[:40], f"is not a parameter of a {kind} problem")
    return fields
