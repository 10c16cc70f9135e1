"""What is installed, what will be loaded, and what the settings of a run do to a table. No host is imported for it."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weightopt.adapters.rules import UNREADABLE, Host
from weightopt.adapters.skyrl_rules import SKYRL
from weightopt.adapters.slime_rules import SLIME
from weightopt.adapters.trinity_rules import TRINITY
from weightopt.adapters.trl_rules import GRPO, RLOO
from weightopt.adapters.verl_rules import VERL
from weightopt.adapters.weigher import AdapterError
from weightopt.files import read_file

HOSTS: tuple[Host, ...] = (GRPO, RLOO, VERL, SKYRL, TRINITY, SLIME)
MAX_CONFIG_BYTES = 4 * 2**20


def installed_version(host: Host) -> str | None:
    """The version of a host in this environment, from its metadata; None if it is not there."""
    try:
        return importlib.metadata.version(host.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe(host: Host) -> dict[str, Any]:
    """What is known of a host in this environment, as a JSON object.

    Keys: ``host``, ``name``, ``version`` (null: not installed), ``tested`` and ``written_for`` (versions), ``state``
    (``"tested"``, ``"untested version"``, ``"written to its interface"`` or ``"not installed"``), ``loaded`` (whether
    the host will find our part; null where the user imports it), ``why``, and ``lines``, which a user adds.
    """
    version = installed_version(host)
    if version is None:
        state = "not installed"
    elif version in host.tested:
        state = "tested"
    else:
        state = "untested version" if host.tested else "written to its interface"
    plugin = host.plugin() if host.plugin is not None and version is not None else None
    return {
        "host": host.key,
        "name": host.name,
        "version": version,
        "tested": list(host.tested),
        "written_for": list(host.written_for),
        "state": state,
        "loaded": None if plugin is None else plugin.loaded,
        "why": None if plugin is None else plugin.why,
        "lines": host.lines,
    }


def named(key: str) -> Host:
    """The host of this name.

    Raises
    ------
    AdapterError
        If there is none.
    """
    for host in HOSTS:
        if host.key == key:
            return host
    raise AdapterError(f"host {key!r} is not known; give one of {', '.join(host.key for host in HOSTS)}.")


def read_config(path: Path, key: str | None = None) -> tuple[Host, dict[str, Any]]:
    """A host's configuration, and whose it is.

    Parameters
    ----------
    path
        JSON, YAML, a Python file in which the host's configuration is made (``GRPOConfig(...)``), or a Python literal.
    key
        The host, where the configuration does not show it.

    Raises
    ------
    AdapterError
        If the file cannot be read, or is no configuration of a host that is known.
    """
    try:
        data = read_file(os.fspath(path), MAX_CONFIG_BYTES)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise AdapterError(f"{path}: not UTF-8 text, so not the configuration of a trainer.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AdapterError(f"{path}: cannot be read ({reason}); give the path of a trainer's configuration.") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise AdapterError(f"{path}: larger than {MAX_CONFIG_BYTES >> 20} MiB, so not the configuration of a trainer.")
    made_by, given = _parsed(path, text)
    host = named(key) if key is not None else None
    if host is None:
        host = next((each for each in HOSTS if made_by in each.constructors), None)
    if host is None:
        host = next((each for each in HOSTS if each.recognises(given)), None)
    if host is None:
        known = ", ".join(each.key for each in HOSTS)
        raise AdapterError(f"{path}: no configuration of a trainer that is known; name it with --host, one of {known}.")
    return host, given


def _parsed(path: Path, text: str) -> tuple[str | None, dict[str, Any]]:
    """The settings in a file, and the class that is called with them, if it is one."""
    suffix = path.suffix.lower()
    made_by = None
    try:
        if suffix == ".json":
            given = json.loads(text)
        elif suffix in (".yaml", ".yml"):
            given = _yaml(path, text)
        else:
            made_by, given = _python(text)
    except (ValueError, RecursionError, MemoryError, SyntaxError) as error:
        line = " ".join(str(error).split())[:120]
        raise AdapterError(f"{path}: cannot be parsed ({line}); give JSON, YAML or Python.") from None
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise AdapterError(f"{path}: must hold settings by name, such as {{'loss_type': 'dr_grpo'}}.")
    return made_by, given


def _yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise AdapterError(f"{path}: to read YAML, pip install pyyaml, or give the settings as JSON.") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _python(text: str) -> tuple[str | None, Any]:
    """The one call of a configuration's class in a Python file, else a literal; nothing is run."""
    tree = ast.parse(text)
    constructors = {name for host in HOSTS for name in host.constructors}
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node.func) in constructors | {"dict"}
    ]
    made = [call for call in calls if _name(call.func) in constructors]
    if len(made) > 1:
        raise ValueError(f"{len(made)} configurations are made in it")
    if made:
        return _name(made[0].func), _keywords(made[0])
    if len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr | ast.Assign | ast.AnnAssign):
        value = tree.body[0].value
        if isinstance(value, ast.Call) and value in calls and not value.args:
            return None, _keywords(value)
        if isinstance(value, ast.Dict):
            return None, {
                key.value: _literal(entry)
                for key, entry in zip(value.keys, value.values, strict=True)
                if isinstance(key, ast.Constant)
            }
    raise ValueError(f"no call of {' or '.join(sorted(constructors))} and no dict in it")


def _name(function: ast.expr) -> str | None:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else None


def _keywords(call: ast.Call) -> dict[str, Any]:
    return {keyword.arg: _literal(keyword.value) for keyword in call.keywords if keyword.arg is not None}


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return UNREADABLE


def report(path: Path | None = None, key: str | None = None, table: Any = None) -> dict[str, Any]:
    """What `weightopt doctor` says, as one JSON document.

    Keys: ``hosts`` (see `describe`), and with a configuration ``config`` (its path), ``host``, ``table`` (its name),
    ``findings`` (objects with ``setting``, ``value``, ``severity``, ``meaning``, ``instead``), and ``refused``, whether
    one of them changes the weight.
    """
    document: dict[str, Any] = {"hosts": [describe(host) for host in HOSTS]}
    if path is None:
        return document
    host, given = read_config(path, key)
    findings = host.findings(given, table)
    return {
        **document,
        "config": str(path),
        "host": host.key,
        "table": None if table is None else table.name,
        "findings": [
            {
                "setting": finding.setting,
                "value": _plain(finding.value),
                "severity": finding.severity,
                "meaning": finding.meaning,
                "instead": finding.instead,
            }
            for finding in findings
        ],
        "refused": any(finding.severity == "refuse" for finding in findings),
    }


def _plain(value: Any) -> Any:
    """The value as JSON has it; what JSON has no word for, as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and abs(value) < float("inf")):
        return value
    return str(value)
