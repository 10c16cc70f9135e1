"""What a verifier may not do while it judges: side effects of any kind, and the evaluation of strange text.

Some verifiers of other people's hand text of a model to ``eval``, directly or through sympy's parser. In the process
that judges one answer and then ends, `seal` takes away what such text could use: a Python audit hook refuses to write a
file, start a process or open a connection, and ``eval`` takes only expressions that name numbers, and in the parser of
sympy its functions and constants. This bounds what libraries can be talked into; it does not jail a program that means
harm, so a task must not execute programs of the model in its verifier.
"""

import builtins
import os
import re
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import CodeType
from typing import Any

# Audit events, or beginnings of their names: https://docs.python.org/3/library/audit_events.html
REFUSED = (
    "ctypes.", "ftplib.", "http.", "imaplib.", "mmap.", "nntplib.", "os.chdir", "os.chflags", "os.chmod", "os.chown",
    "os.exec", "os.fork", "os.kill", "os.link", "os.lockf", "os.mkdir", "os.posix_spawn", "os.putenv", "os.remove",
    "os.rename", "os.rmdir", "os.setxattr", "os.spawn", "os.startfile", "os.symlink", "os.system", "os.truncate",
    "os.unsetenv", "os.utime", "poplib.", "pty.", "resource.", "shutil.", "signal.", "smtplib.", "socket.", "sqlite3.",
    "subprocess.", "syslog.", "telnetlib.", "tempfile.", "urllib.", "webbrowser.",
)  # fmt: skip

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# Functions of sympy, beside its classes, that an expression may call.
PLAIN_FUNCTIONS = frozenset({"sqrt", "cbrt", "root"})
NAME_OR_NUMBER = re.compile(r"[A-Za-z0-9_.]{1,64}", re.ASCII)


def bound_memory(room: int) -> None:
    """Let this process take so many bytes of memory beyond what it holds, and leave no core behind.

    Where the system does not say what it holds, they are all that it may have.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        room += int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (room, room))


class SealError(PermissionError):
    """A verifier tried something that `seal` has taken away."""


def seal() -> None:
    """Take these abilities away from this process, for the rest of its life."""
    sys.dont_write_bytecode = True  # a late import must not write its cache
    builtins.eval = _evaluate
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(REFUSED) or (event == "open" and _writes(*arguments[1:3])):
        raise SealError(f"a verifier may not call {event}")


def _writes(mode: object, flags: object) -> bool:
    if isinstance(mode, str) and not set(mode).isdisjoint("wax+"):
        return True
    return isinstance(flags, int) and bool(flags & WRITING)


_unguarded_eval = builtins.eval


def _evaluate(source: Any, names: dict[str, Any] | None = None, more: Mapping[str, Any] | None = None, /) -> Any:
    """``eval`` of harmless expressions only."""
    code = source if isinstance(source, CodeType) else compile(source, "<answer>", "eval")
    known = {**(names or {}), **(more or {})}
    if not all(_is_harmless(constant, alone=not known) for constant in code.co_consts):
        raise SealError("a verifier may evaluate arithmetic only")
    for name in code.co_names:
        if name.startswith("_") or name not in known or not (name in PLAIN_FUNCTIONS or _is_mathematics(known[name])):
            raise SealError(f"a verifier may not evaluate {name!r}")
    return _unguarded_eval(code, {"__builtins__": {}, **{name: known[name] for name in code.co_names}})


def _is_harmless(constant: object, *, alone: bool) -> bool:
    """Whether a constant is no code; and where functions can be called, no text that they would evaluate in turn."""
    if isinstance(constant, (tuple, frozenset)):
        return all(_is_harmless(part, alone=alone) for part in constant)
    if isinstance(constant, str) and not alone:
        return "__" not in constant and NAME_OR_NUMBER.fullmatch(constant) is not None
    return not isinstance(constant, CodeType)


def _is_mathematics(thing: object) -> bool:
    from sympy import Basic

    return isinstance(thing, Basic) or (isinstance(thing, type) and issubclass(thing, Basic))
