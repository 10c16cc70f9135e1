"""One reader of configurations: TOML written by hand, and ``--set`` after it, read into frozen records.

A key that is not known is an error that names the nearest key there is; a value out of range names both ends of the
range; the first mistake is one sentence. pydantic has its host here and in the sections that stand beside their users.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Strict, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

# Not Python's: a truth value is no number, and a text is none either.
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict()]


class SettingsError(ValueError):
    """A configuration cannot be read; the message is one sentence naming the key and its valid range."""


class Section(BaseModel):
    """A part of a configuration: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


SectionT = TypeVar("SectionT", bound=Section)
Named = TypeVar("Named", str, Path)


def of_form(pattern: str, words: str) -> AfterValidator:
    """What refuses a text that does not match, and says in words what would."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"it must be {words}")
        return text

    return AfterValidator(check)


def can_be_opened(name: Named) -> Named:
    """A file name as it is; ValueError if no file can have it."""
    if "\0" in str(name):
        raise ValueError("it has an embedded null byte, which no file name has")
    return name


File = Annotated[Path, AfterValidator(can_be_opened)]


@dataclass(frozen=True)
class ByName:
    """Annotates a section whose key ``name`` decides which other keys it has.

    Parameters
    ----------
    sections
        Name to the section of that name, written ``"module:class"``; imported when the name is used.
    """

    sections: Mapping[str, str]

    def section(self, name: str) -> type[Section]:
        """The section of a name that is known."""
        module, _, attribute = self.sections[name].partition(":")
        return getattr(import_module(module), attribute)

    def read(self, value: Any) -> Any:
        """The section that a dictionary describes."""
        if not isinstance(value, Mapping):
            return value  # a section already, or no section at all
        name = value.get("name")
        if not isinstance(name, str) or name not in self.sections:
            names = ", ".join(repr(each) for each in self.sections)
            wrong = PydanticCustomError("name", "it must be one of {names}", {"names": names})
            raise ValidationError.from_exception_data("name", [InitErrorDetails(type=wrong, loc=("name",), input=name)])
        return self.section(name).model_validate(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))


def load(
    model: type[SectionT], path: Path, overrides: Sequence[str] = (), *, refused: Mapping[str, str] | None = None
) -> SectionT:
    """Read a configuration file.

    Parameters
    ----------
    model
        The section that is the whole configuration.
    path
        TOML file.
    overrides
        ``"section.key=value"`` each, applied in order; the value is read as TOML, or as a string where it is not TOML.
    refused
        Keys that people look for and why they are not there.

    Raises
    ------
    SettingsError
        If the file cannot be read, is not TOML, or holds an unknown key or a value out of range.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"config {str(path)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"config {str(path)!r} is not TOML: {error}") from error
    for override in overrides:
        _override(document, override)
    return parse(model, document, refused=refused)


def parse(model: type[SectionT], document: Mapping[str, Any], *, refused: Mapping[str, str] | None = None) -> SectionT:
    """Check a configuration that is already a dictionary; raises like `load`."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise SettingsError(_explain(error, model, document, refused or {})) from error


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Where two dictionaries of JSON values differ: dotted key and both values (None where absent), sorted by key."""
    left, right = dict(_leaves(first)), dict(_leaves(second))
    keys = sorted(left.keys() | right.keys())
    return [(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _override(document: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise SettingsError(f"--set {override!r} is not of the form key=value or section.key=value")
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        read = {"value": text}
    if read.keys() != {"value"}:
        raise SettingsError(f"--set {override!r} holds more than one value: give each a --set of its own")
    value = read["value"]
    *sections, last = key.split(".")
    for section in sections:
        document = document.setdefault(section, {})
        if not isinstance(document, dict):
            raise SettingsError(f"--set {override!r}: {section!r} is not a section")
    document[last] = value


def _explain(
    error: ValidationError, model: type[Section], document: Mapping[str, Any], refused: Mapping[str, str]
) -> str:
    """One sentence for the first thing that is wrong."""
    errors = error.errors(include_url=False)
    # A key that is missing may stand there misspelled, and then that is the mistake.
    first = min(errors[:1] + [each for each in errors if each["type"] == "extra_forbidden"], key=_is_missing)
    # `KEY` marks a bad key of a mapping.
    location = [str(part) for part in first["loc"] if part != KEY]
    key = ".".join(location)
    kind = first["type"]
    if kind == "extra_forbidden":
        *sections, last = location
        if last in refused:
            return f"config key {key!r} is refused: {refused[last]}"
        known = list(_annotation(model, sections, document)[0].model_fields)
        near = get_close_matches(last, known, n=1, cutoff=0.0)
        hint = ".".join([*sections, *near])
        return f"config key {key!r} is unknown; the nearest is {hint!r} (known here: {', '.join(sorted(known))})"
    if kind == "missing":
        return f"config key {key!r} is missing"
    if kind in ("model_type", "model_attributes_type", "dict_type", "mapping_type"):
        form = "a table, { key = value, … }" if location[-1].isdigit() else f"a section of keys, [{key}]"
        return f"config key {key!r} is {first['input']!r}; it must be {form}"
    if kind == "tuple_type":
        return f"config key {key!r} is {first['input']!r}; it must be a list, in brackets: [ … ]"
    message = first["msg"].removeprefix("Value error, ").replace("Tuple", "List")
    if kind in BOUNDS:
        place = [*location[:-1], KEY] if KEY in first["loc"] else location
        message = _range(_annotation(model, place, document)[1])
    if not location:
        return f"config: {message}"
    return f"config key {key!r} is {first['input']!r}: {message[0].lower()}{message[1:]}"


def _is_missing(error: Mapping[str, Any]) -> bool:
    return error["type"] == "missing"


# Errors of pydantic that name one end of a range, and how a bound is called here.
BOUNDS = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"})
ENDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}

# What pydantic puts behind the key of a mapping that is bad itself.
KEY = "[key]"


def _annotation(model: type[Section], place: Sequence[str], document: Any) -> tuple[Any, list[Any]]:
    """The type of what stands at a place of a configuration, and what is said of it beside its type."""
    found: Any = model
    said: list[Any] = []
    for part in place:
        document = document.get(part) if isinstance(document, Mapping) else None
        if isinstance(found, type) and issubclass(found, BaseModel):
            field = found.model_fields[part]
            found, said = field.annotation, [*field.metadata]
        elif get_origin(found) is tuple:  # an entry of a list; the types of its entries end in ... if they are one
            types = get_args(found)
            found, said = types[0 if types[-1] is ... else int(part)], []
        else:
            found, said = get_args(found)[part != KEY], []
        while get_origin(found) in (Annotated, Union, UnionType):
            inner = get_args(found)
            if get_origin(found) is Annotated:
                found = inner[0]
                said += [more for each in inner[1:] for more in getattr(each, "metadata", [each])]
            else:
                found = next(each for each in inner if each is not NoneType and get_origin(each) is not Literal)
        found = next((each.section(document["name"]) for each in said if isinstance(each, ByName)), found)
    return found, said


def _range(said: Sequence[Any]) -> str:
    """Both ends of the range that a number must be in, in words."""
    ends = [(word, getattr(each, name)) for name, word in ENDS.items() for each in said if hasattr(each, name)]
    return "it must be " + " and ".join(
        f"{word} {end:,}" if isinstance(end, int) else f"{word} {end:g}" for word, end in ends
    )
