"""A task of the user's own, by import path.

A path is code, and a configuration may be somebody else's: only modules of the folder that the program was started in
are imported, and those that the user allows, and nothing is called that does not say that it is a task.
"""

import inspect
import os
import pickle
import reprlib
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from rl.errors import UsageError
from rl.tasks.config import NONE, ForeignTaskConfig, Parameters
from rl.tasks.protocol import GeneratedTask, ListedTask, Prompt, TeachingTask
from weightopt.settings import of_form

NEEDED = (
    "a rl.tasks.protocol.Prompt needs id and text, texts that are not empty, difficulty, a text, and a problem that "
    "can be pickled"
)

SAYS = (
    "it must be a class that has verify(prompt, response), and propose(rng) or the lists training and held_out, all "
    "declared in the class, or a function whose return annotation is such a class or rl.tasks.protocol.GeneratedTask "
    "or ListedTask"
)

# Modules that may be imported from anywhere, with commas between them; `weightopt train --allow-import` adds to it.
ALLOWED = "WEIGHTOPT_ALLOW_IMPORT"


class ImportedConfig(ForeignTaskConfig):
    """``[task]`` with ``name = "import"``: a task of the user's own."""

    path: Annotated[str, of_form(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", "module:attribute")]
    """Where it is, "module:attribute"; if the attribute can be called, it is."""
    parameters: Parameters = NONE
    """What it is called with."""

    def build(self) -> Any:
        """The object at ``path``, or what it makes of ``parameters`` if it can be called.

        It must be a `GeneratedTask` or a `ListedTask`, and a `Verifier` too, and declare this before it is called. Its
        module must lie in the folder that the program was started in, which is searched last, or be named in the
        environment variable `ALLOWED`.

        Returns
        -------
        object
            With the same members, which check what they return: what is no prompt raises a `UsageError` that says so.

        Raises
        ------
        UsageError
            If there is no such object, if it may not be imported, if it cannot be made, or if it is no such task.
        """
        module_name, _, attribute = self.path.partition(":")
        name = f"task.path {self.path!r}"
        if "" not in sys.path:
            sys.path.append("")
        _check_place(module_name, name)
        with _in_one_sentence(f"{name} cannot be made into a task"):
            thing = getattr(import_module(module_name), attribute)
            says = not callable(thing) or _makes_task(thing)
        if not says:
            raise UsageError(f"{name} does not say that it is a task, so it is not called: {SAYS}")
        with _in_one_sentence(f"{name} cannot be made into a task"):
            task = thing(**self.parameters) if callable(thing) else thing
            isinstance(task, ListedTask)  # a list may be a property that raises
        if not callable(thing) and self.parameters:
            raise UsageError(f"{name} is an object that cannot be called, so task.parameters have no use")
        if not isinstance(task, GeneratedTask | ListedTask) or not callable(getattr(task, "verify", None)):
            raise UsageError(
                f"{name} gives no task: it needs verify(prompt, response), and propose(rng) or the "
                "lists training and held_out"
            )
        return _checked(task, name)


def allow_imports(modules: Sequence[str]) -> None:
    """Allow modules, and what is in them, for this process and those it starts."""
    os.environ[ALLOWED] = ",".join(filter(None, [os.environ.get(ALLOWED, ""), *modules]))


def _check_place(module: str, name: str) -> None:
    """Refuse a module that nobody has allowed before anything of it is run."""
    allowed = [each.strip() for each in os.environ.get(ALLOWED, "").split(",")]
    if any(module == each or module.startswith(f"{each}.") for each in allowed if each):
        return
    top = module.partition(".")[0]  # to look for more would run the packages on the way
    with _in_one_sentence(f"{name} cannot be made into a task"):
        spec = find_spec(top)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {top!r}")
    found = [*(spec.submodule_search_locations or ([spec.origin] if spec.has_location and spec.origin else []))]
    here = Path.cwd().resolve()
    installed = [Path(sysconfig.get_path(each)).resolve() for each in ("stdlib", "platstdlib", "purelib", "platlib")]
    places = [Path(place).resolve() for place in found]
    if not places or any(
        not place.is_relative_to(here) or any(map(place.is_relative_to, installed)) for place in places
    ):
        raise UsageError(
            f"{name} names a module outside the folder of the start, and such code is not imported unless "
            f"you allow it: --allow-import {module}"
        )


def _makes_task(thing: Any) -> bool:
    """Whether a class is a task's, or a function is annotated to return one."""
    if isinstance(thing, type):
        return _is_task_class(thing)
    returned = inspect.signature(thing, eval_str=True).return_annotation
    kinds = get_args(returned) if get_origin(returned) in (Union, UnionType) else (returned,)
    return all(isinstance(kind, type) and _is_task_class(kind) for kind in (get_origin(kind) or kind for kind in kinds))


def _is_task_class(kind: type) -> bool:
    if kind in (GeneratedTask, ListedTask, TeachingTask):
        return True
    declared = {name for parent in kind.__mro__ for name in (*vars(parent), *vars(parent).get("__annotations__", ()))}
    return "verify" in declared and ("propose" in declared or {"training", "held_out"} <= declared)


def _checked(task: Any, name: str) -> Any:
    """The members of a task that are used here, each made to give what it should."""

    def propose(rng: Random) -> Prompt[Any]:
        with _in_one_sentence(f"{name}: propose failed"):
            proposed = task.propose(rng)
        return _prompt(proposed, f"{name}: propose")

    def demonstrate(prompt: Prompt[Any], rng: Random, *, solved: bool) -> str:
        with _in_one_sentence(f"{name}: demonstrate failed"):
            text = task.demonstrate(prompt, rng, solved=solved)
        if not isinstance(text, str):
            raise UsageError(f"{name}: demonstrate gave {_short(text)}: it must be a text")
        return text

    def listed(side: str) -> tuple[Prompt[Any], ...]:
        with _in_one_sentence(f"{name}: the list {side} cannot be read"):
            each = tuple(getattr(task, side))
        return tuple(_prompt(prompt, f"{name}: the list {side}") for prompt in each)

    members: dict[str, Any] = {"verify": task.verify}
    if isinstance(task, GeneratedTask):
        members["propose"] = propose
    if isinstance(task, TeachingTask):
        with _in_one_sentence(f"{name}: the alphabet cannot be read"):
            members |= {"alphabet": "".join(task.alphabet), "demonstrate": demonstrate}
    if isinstance(task, ListedTask):
        members |= {"training": listed("training"), "held_out": listed("held_out")}
        if not members["training"]:
            raise UsageError(f"{name}: the list training is empty")
        names = Counter(prompt.id for prompt in (*members["training"], *members["held_out"]))
        ((again, times),) = names.most_common(1)
        if times > 1:
            raise UsageError(
                f"{name}: the id {again!r} stands twice in training and held_out together; each may stand there once, "
                "so that no prompt is both trained on and measured"
            )
    return SimpleNamespace(**members)


def _prompt(prompt: Any, name: str) -> Prompt[Any]:
    """The prompt, if it is one that everything from the sampler to the verifier's process can take."""
    if not isinstance(prompt, Prompt):
        raise UsageError(f"{name} gave {_short(prompt)}, which is no prompt: {NEEDED}")
    for field, value in (("id", prompt.id), ("text", prompt.text), ("difficulty", prompt.difficulty)):
        if not isinstance(value, str) or not (value or field == "difficulty"):
            raise UsageError(f"{name} gave a prompt whose {field} is {_short(value)}: {NEEDED}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{name} gave a prompt whose {field}, {_short(value)}, is no text that can be written in UTF-8"
            ) from error
    with _in_one_sentence(f"{name} gave a prompt whose problem cannot be pickled, as its way to the verifier needs"):
        pickle.dumps(prompt)
    return prompt


def _short(value: object) -> str:
    with _in_one_sentence("a value that cannot be shown was given"):
        return " ".join(reprlib.repr(value).split())


@contextmanager
def _in_one_sentence(what: str) -> Iterator[None]:
    """Turn whatever the user's own code does in a ``with`` block, leaving the program included, into a `UsageError`."""
    try:
        yield
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"{what}: {reason}") from error
