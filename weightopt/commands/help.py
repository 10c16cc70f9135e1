"""How help reads: switches without a type, brackets as they are written, examples at the end.

The option parser renders help as markup, in which a bracket such as ``[floor, 1 - floor]`` is a style and disappears.
None of our texts is markup: here they are all escaped, those of other packages' commands too.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from typer.core import TyperCommand, TyperGroup

EXAMPLES = re.compile(r"\n *Examples:\n")
SEVERAL = re.compile(r"^<(?:list\[(\w+)\]|(\w+) range)>$")


def plain(text: str) -> str:
    """A text without markup: every bracket is shown."""
    return re.sub(r"\\*\[", lambda bracket: "\\" * (2 * (len(bracket[0]) - 1) + 1) + "[", text)


def unwrapped(text: str) -> str:
    """Paragraphs on one line each, to be broken where the terminal ends; examples, which begin with ``$``, as they are.

    Lines of examples that belong together are indented.
    """
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text))
    return "\n\n".join(
        paragraph if paragraph.lstrip().startswith("$") else " ".join(paragraph.split()) for paragraph in paragraphs
    )


class _Readable:
    """Set the help of a command as people read it; its docstring may end in a paragraph ``Examples:``."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        text, *examples = EXAMPLES.split(settings.get("help") or "", maxsplit=1)
        settings["help"] = plain(unwrapped(text))
        if examples:
            settings["epilog"] = "Examples:\n\n" + plain(inspect.cleandoc(examples[0]))
        super().__init__(*arguments, **settings)  # pyright: ignore[reportCallIssue]  of the command it is mixed into
        self._readable: set[int] = set()

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, and the option for help."""
        parameters = super().get_params(ctx)  # pyright: ignore[reportAttributeAccessIssue]
        panels = [each for each in (getattr(each, "rich_help_panel", None) for each in parameters) if each]
        for parameter in parameters:
            if id(parameter) in self._readable:
                continue
            self._readable.add(id(parameter))
            if getattr(parameter, "is_flag", False) and parameter.metavar is None:
                parameter.metavar = ""
            elif parameter.param_type_name == "option" and parameter.metavar is None:
                # One value of an option that is repeated, or that has a range, which stands beside it.
                parameter.metavar = SEVERAL.sub(r"<\1\2>", parameter.display_type(ctx) or "") or None
            if getattr(parameter, "help", None):
                default = parameter.show_default
                if isinstance(default, str) and parameter.param_type_name == "option":
                    parameter.show_default = False
                    parameter.help += f"  [default: {default}]"
                parameter.help = plain(parameter.help)
            if parameter.name == "help" and panels:
                parameter.rich_help_panel = panels[-1]  # else it would come first, in a box of its own
        return parameters


class Command(_Readable, TyperCommand):
    """A command whose help is set as people read it."""


class Group(_Readable, TyperGroup):
    """A group of commands whose help is set as people read it."""
