"""One reader of configurations: TOML written by hand, and ``--set`` after it, read into frozen records.

A key that is not known is an error that names a near one; a value out of range names both ends of the range; the first
mistake is one sentence. pydantic has its host here and in the sections that stand beside their users.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from textwrap import wrap
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Strict, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from weightopt.files import read_file

# Beyond these no configuration goes; the parser takes quadratic time for a long key, and recurses into nested values.
LONGEST_FILE = 2**20
DEEPEST = 32
LONG_KEY = re.compile(r"""(?:\.[ \t]*+(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+){32}""")
LONGEST_SHOWN = 200

# Not Python's: a truth value is no number, and a text is none either.
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict()]


class SettingsError(ValueError):
    """A configuration cannot be read; the message is one sentence naming the key and its valid range."""


class Section(BaseModel):
    """A part of a configuration: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


SectionT = TypeVar("SectionT", bound=Section)
Named = TypeVar("Named", str, Path)


def of_form(pattern: str, words: str) -> AfterValidator:
    """What refuses a text that does not match, and says in words what would."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"it must be {words}")
        return text

    return AfterValidator(check)


def as_list(value: Any) -> Any:
    """One text or number where several are allowed."""
    return [value] if isinstance(value, str | int | float) else value


def each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values as they are; ValueError if two are equal."""
    if len(set(values)) < len(values):
        raise ValueError("it must be different values, and one stands there twice")
    return values


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


def shipped_configs(part: str = "") -> Path:
    """The folder of the configurations that come with the project.

    Parameters
    ----------
    part
        Folder in it: "" for training, ``"simulate"`` for simulation.
    """
    here = Path(__file__).resolve().parent
    installed, checkout = here / "configs", here.parent / "configs"
    return (installed if installed.is_dir() else checkout) / part


def _found(path: Path, shipped: Path | None) -> Path:
    """The file of a configuration that is named by its path or, if it is shipped, by its name alone."""
    if shipped is None or path.suffix or path.name != str(path) or path.is_file():
        return path
    names = sorted(each.stem for each in shipped.glob("*.toml"))
    if path.name not in names:
        raise SettingsError(
            f"config {str(path)!r} is neither a file here nor one that comes with the project: {', '.join(names)}"
        )
    return shipped / f"{path.name}.toml"


def load(
    model: type[SectionT],
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    changes: Mapping[str, Any] | None = None,
    stated: Mapping[str, Any] | None = None,
    refused: Mapping[str, str] | None = None,
    shipped: Path | None = None,
) -> SectionT:
    """Read a configuration file.

    Parameters
    ----------
    model
        The section that is the whole configuration.
    path
        TOML file, in UTF-8, of at most 1 MiB; None for the defaults.
    overrides
        ``"section.key=value"`` each, applied in order; the value is read as TOML, or as a string where it is not TOML.
    changes
        Keys of the whole configuration to replace before `overrides`.
    stated
        Dotted keys with the values of options of their own, None where one is not given; no override may name them too.
    refused
        Keys that people look for and why they are not there.
    shipped
        Folder of configurations that `path` may name without folder and ending; see `shipped_configs`.

    Raises
    ------
    SettingsError
        If the file cannot be read, is not TOML, or holds an unknown key or a value out of range; or if a key is given
        twice.
    """
    document = {} if path is None else _read(_found(path, shipped))
    document.update(copy.deepcopy(dict(changes or {})))
    for override in overrides:
        _override(document, override)
    for key, value in (stated or {}).items():
        if value is None:
            continue
        if any(changes_key(override, key) for override in overrides):
            raise SettingsError(f"config key {key!r} is given by --set and by an option of its own: give it once")
        _put(document, key, value, f"option for {key}")
    return parse(model, document, refused=refused)


def _read(path: Path) -> dict[str, Any]:
    name = f"config {str(path)!r}"
    try:
        data = read_file(path, LONGEST_FILE)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{name} cannot be read: {getattr(error, 'strerror', error)}") from error
    if len(data) > LONGEST_FILE:
        raise SettingsError(f"{name} is longer than {LONGEST_FILE:,} bytes")
    try:
        return _toml(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise SettingsError(f"{name} is not UTF-8 text: byte {byte:#04x} stands at offset {error.start:,}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{name} is not TOML: {error}") from error


def _toml(text: str) -> dict[str, Any]:
    """A TOML document; ValueError if it is none, or is nested deeper than any configuration."""
    if LONG_KEY.search(text):
        raise ValueError(f"a key has more than {DEEPEST} parts")
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"values are nested more than {DEEPEST} deep") from None
    level: list[Any] = [document]
    for _ in range(DEEPEST + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise ValueError(f"values are nested more than {DEEPEST} deep")
    return document


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
        raise SettingsError(f"--set {_shown(override)} is not of the form key=value or section.key=value")
    if key.count(".") > DEEPEST:
        raise SettingsError(f"--set {_shown(override)} names a key of more than {DEEPEST} parts")
    try:
        read = _toml(f"value = {text}")
    except ValueError:
        read = {"value": text}
    if read.keys() != {"value"}:
        raise SettingsError(f"--set {_shown(override)} holds more than one value: give each a --set of its own")
    _put(document, key, read["value"], f"--set {_shown(override)}")


def changes_key(override: str, key: str) -> bool:
    """Whether ``"section.key=value"`` gives a key, or a part of it, a value."""
    return f"{override.partition('=')[0]}.".startswith(f"{key}.")


def _put(document: dict[str, Any], key: str, value: Any, asked: str) -> None:
    *sections, last = key.split(".")
    for section in sections:
        document = document.setdefault(section, {})
        if not isinstance(document, dict):
            raise SettingsError(f"{asked}: {section!r} is not a section")
    document[last] = value


def _explain(
    error: ValidationError, model: type[Section], document: Mapping[str, Any], refused: Mapping[str, str]
) -> str:
    """One sentence for the first thing that is wrong."""
    errors = error.errors(include_url=False)
    # A key that is missing may stand there misspelled, and then that is the mistake.
    first = min(errors[:1] + [each for each in errors if each["type"] == "extra_forbidden"], key=_is_missing)
    kind, given, location = first["type"], first["input"], first["loc"]
    if kind == "extra_forbidden":
        place, last = _place(model, location[:-1], document), str(location[-1])
        key = ".".join([*place.keys, last])
        if reason := refused.get(key, refused.get(last)):
            return f"config key {key!r} is refused: {reason}"
        known = list(place.found.model_fields)
        near = get_close_matches(last, known, n=1)
        hint = f"; the nearest is {'.'.join([*place.keys, *near])!r}" if near else ""
        return f"config key {key!r} is unknown{hint} (known here: {', '.join(sorted(known))})"
    place = _place(model, location, document)
    key = ".".join(place.keys)
    if kind == "missing":
        return f"config key {key!r} is missing"
    if kind in BOUNDS:
        message = f"it must be {_range(place.said)}"
    elif kind in OURS or not (words := _words(place)):
        message = first["msg"].removeprefix("Value error, ")
        message = f"{message[0].lower()}{message[1:]}"
    else:
        message = f"it must be {words}"
    if not key:
        return f"config: {message}"
    if kind in OURS and any(isinstance(each, Mapping) for each in (given if isinstance(given, list) else [given])):
        return f"config key {key!r}: {message}"  # which names the keys in it that do not agree
    return f"config key {key!r} is {_shown(given)}: {message}"


def _shown(value: Any) -> str:
    """A value as messages quote it, of one line and no longer than one reads."""
    if value is None or isinstance(value, bool):  # as TOML has it, which has no None
        return "missing" if value is None else str(value).lower()
    text = repr(dict(value) if isinstance(value, Section) else value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _is_missing(error: Mapping[str, Any]) -> bool:
    return error["type"] == "missing"


# Errors that are in our words already, and errors of pydantic that name one end of a range.
OURS = frozenset({"value_error", "name"})
BOUNDS = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"})
# What ends of a range, lengths and types are called here.
ENDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
LENGTHS = {"min_length": "of length at least", "max_length": "of length at most"}
TYPES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text, in quotes",
    Path: "a path, in quotes",
}

# What pydantic puts behind the key of a mapping that is bad itself.
KEY = "[key]"


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A place of a configuration, by its keys.

    ``kind`` is its type with all that it may be, ``found`` the one that is no text of its own and not nothing, and
    ``said`` what is said of that beside it.
    """

    keys: Sequence[str]
    kind: Any
    found: Any
    said: Sequence[Any]


def _place(model: type[Section], location: Sequence[int | str], document: Any) -> _Place:
    """Go from key to key; what pydantic calls a member of a union, and the mark `KEY`, are none."""
    outer: Any = None
    kind: Any = model
    found: Any = model
    said: list[Any] = []
    keys: list[str] = []
    member = False
    for part in location:
        if member := len(_members(kind)) > 1 and not member:
            continue
        if part == KEY:
            kind, said = get_args(outer)[0], []
        else:
            keys.append(str(part))
            document = document.get(part) if isinstance(document, Mapping) else None
            outer = found
            if isinstance(found, type) and issubclass(found, BaseModel):
                field = found.model_fields[str(part)]
                kind, said = field.annotation, [*field.metadata]
            elif get_origin(found) is tuple:  # the types of its entries end in ... if they are one
                types = get_args(found)
                kind, said = types[0 if types[-1] is ... else int(part)], []
            else:
                kind, said = get_args(found)[1], []
        found = kind
        while get_origin(found) in (Annotated, Union, UnionType):
            inner = get_args(found)
            if get_origin(found) is Annotated:
                found = inner[0]
                said += [more for each in inner[1:] for more in getattr(each, "metadata", [each])]
            else:
                kinds = _members(found)
                found = next((each for each in kinds if get_origin(each) is not Literal), kinds[0])
        name = str(document.get("name")) if isinstance(document, Mapping) else ""
        named = (each for each in said if isinstance(each, ByName))
        found = next((each.section(name) for each in named if name in each.sections), found)
    return _Place(keys=keys, kind=kind, found=found, said=said)


def _members(kind: Any) -> list[Any]:
    """The types of a union, but for that of nothing; of another type none."""
    return [each for each in get_args(kind) if each is not NoneType] if get_origin(kind) in (Union, UnionType) else []


def _words(place: _Place) -> str:
    """What must stand at a place; empty if that is no type of a configuration."""
    found, types = place.found, get_args(place.found)
    if get_origin(found) is Literal:
        return f"one of {', '.join(map(repr, types))}"
    if get_origin(found) is tuple:
        words = f"a list{'' if types[-1] is ... else f' of {len(types)}'}, in brackets: [ … ]"
    elif found in TYPES:
        words = TYPES[found]
    elif get_origin(found) is Mapping or (isinstance(found, type) and issubclass(found, BaseModel)):
        table = place.keys and place.keys[-1].isdigit()
        words = "a table, { key = value, … }" if table else f"a section of keys, [{'.'.join(place.keys)}]"
    else:
        return ""
    texts = [repr(text) for each in _members(place.kind) if get_origin(each) is Literal for text in get_args(each)]
    return " or ".join([*texts, ", ".join(filter(None, [words, _range(place.said)]))])


def _range(said: Sequence[Any]) -> str:
    """Both ends of the range that a number, or the length of a text or list, must be in, in words."""
    names = ENDS | LENGTHS
    ends = [
        (word, end) for name, word in names.items() for each in said if (end := getattr(each, name, None)) is not None
    ]
    words = [f"{word} {end:,}" if isinstance(end, int) else f"{word} {end:g}" for word, end in ends]
    finite = any(getattr(each, "allow_inf_nan", None) is False for each in said)
    return " and ".join([*words, *(["finite"] if finite else [])])


def as_toml(settings: Section) -> str:
    """Settings as a TOML document that reads back to them: above each key its meaning and what it may be.

    A key that has no value stands there as a comment.
    """
    return "\n".join(_lines(settings, ())).lstrip("\n") + "\n"


def _lines(section: Section, place: tuple[str, ...]) -> Iterator[str]:
    values = section.model_dump(mode="json")
    inner = [name for name in type(section).model_fields if isinstance(getattr(section, name), Section)]
    for name in [name for name in values if name not in inner]:
        for line in wrap(_meaning(type(section), name), 116, break_long_words=False, break_on_hyphens=False):
            yield f"# {line}"
        yield f"# {name} =" if values[name] is None else f"{name} = {_as_toml(values[name])}"
    for name in inner:
        yield from ("", f"[{'.'.join([*place, name])}]", *_lines(getattr(section, name), (*place, name)))


def _meaning(model: type[Section], name: str) -> str:
    """What a key means, and what it may be."""
    place = _place(model, [name], None)
    text = " ".join((model.model_fields[name].description or "").split())
    words = _words(place) if get_origin(place.found) is Literal else _range(place.said)
    return f"{text} {words[:1].upper()}{words[1:]}." if words else text


def _as_toml(value: Any) -> str:
    """A JSON value as TOML; what is null has no place in it."""
    if isinstance(value, Mapping):
        pairs = [f"{_as_toml(str(key))} = {_as_toml(each)}" for key, each in value.items() if each is not None]
        return "{ " + ", ".join(pairs) + " }" if pairs else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(_as_toml(each) for each in value) + "]"
    # JSON's numbers, truth values and texts are TOML's, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
