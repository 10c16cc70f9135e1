"""What the site needs beyond its pages: hooks that mkdocs calls (see ``mkdocs.yml``).

The start page is the README and the last one CONTRIBUTING.md, so that nothing is said twice. The reference of the
command line is generated from the commands. Formulas between dollars become MathML, which browsers set without a
script.
"""

from __future__ import annotations

import html
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File
from mkdocs.structure.files import Files as SiteFiles

ROOT = Path(__file__).resolve().parent.parent
FONT = "STIXTwoMath-Regular.ttf"
TAKEN_IN = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)
FETCHED = re.compile(r'<script src="?https://unpkg.com/iframe-worker/shim"?></script>')
# Files of the repository that pages name and that are not part of the site.
OUTSIDE = re.compile(r"\[([^\]]*)\]\((\.\./[^)]*)\)")


def on_files(pages: SiteFiles, config: Any) -> SiteFiles:
    """Add the pages that are made here, and the font of the formulas."""
    for name, source in TAKEN_IN.items():
        pages.append(File.generated(config, name, content=taken_in((ROOT / source).read_text(encoding="utf-8"))))
    pages.append(File.generated(config, "cli.md", content=command_line()))
    (home,) = find_spec("ziamath").submodule_search_locations  # its import would load what is not needed
    pages.append(File.generated(config, f"assets/{FONT}", content=(Path(home) / "fonts" / FONT).read_bytes()))
    return pages


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Name files outside of the site instead of linking to them."""
    return OUTSIDE.sub(lambda link: f"{link[1]} (`{link[2].removeprefix('../')}`)", markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Set formulas as MathML."""
    return FORMULA.sub(lambda found: formula(html.unescape(found[3]), display=found[2] == "["), content)


def on_post_page(output: str, **_: Any) -> str:
    """Take the worker that the search needs from here: the plugin for pages on a disk would have it fetched."""
    code = (ROOT / "docs" / "worker.js").read_text(encoding="utf-8")
    return FETCHED.sub(lambda _: f"<script>{code}</script>", output)


def on_post_template(output_content: str, **_: Any) -> str:
    """The same for the page of a wrong address."""
    return on_post_page(output_content)


def formula(text: str, *, display: bool) -> str:
    """A formula as MathML, on a line of its own or within one."""
    made = convert(text.strip(), display="block" if display else "inline")
    return f'<div class="formula">{made}</div>' if display else made


def taken_in(text: str) -> str:
    """A page of the repository's top as a page of the site: its links are from ``docs/``."""
    text = re.sub(r"\[([^\]]*)\]\((examples/[^)]*)\)", r"\1 (`\2`)", re.sub(r"\]\(docs/", "](", text))
    for name, source in TAKEN_IN.items():
        text = text.replace(f"]({source})", f"]({name})")
    return text


def command_line() -> str:
    """The reference of the command line, from the commands themselves."""
    import typer

    from weightopt import cli

    cli._add_commands([])
    group: Any = typer.main.get_command(cli.app)
    lines = [
        "# The command line",
        "",
        "Generated from the commands; `weightopt COMMAND --help` prints the same. Bad input ends with one sentence and",
        "exit status 2, a failure with exit status 1. `--json` is described in [What --json prints](json.md).",
        "",
    ]
    parent = typer.Context(group, info_name="weightopt")
    for name, command in group.commands.items():
        lines += _command(name, command, typer.Context(command, info_name=name, parent=parent))
    return "\n".join(lines)


def _command(name: str, command: Any, context: Any) -> list[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## {name}", "", f"    weightopt {name} {usage}", "", _shown(command.help or ""), ""]
    panels: dict[str, list[Any]] = {}
    for parameter in command.get_params(context):
        if not getattr(parameter, "hidden", False):
            panel = "Arguments" if parameter.param_type_name == "argument" else "Options"
            panels.setdefault(getattr(parameter, "rich_help_panel", None) or panel, []).append(parameter)
    for panel, parameters in panels.items():
        lines += [f"**{panel}**", "", '<div class="options" markdown>', "", "| | default | |", "|---|---|---|"]
        lines += [_row(parameter, context) for parameter in parameters]
        lines += ["", "</div>", ""]
    if command.epilog:
        examples = _plain(command.epilog).removeprefix("Examples:").strip("\n")
        lines += ["**Examples**", "", *(f"    {line}" for line in examples.splitlines()), ""]
    return lines


def _row(parameter: Any, context: Any) -> str:
    """An option: how it is written, its default, and what it means."""
    flag = getattr(parameter, "is_flag", False)
    argument = parameter.param_type_name == "argument"
    kind = "" if flag or argument else (parameter.display_type(ctx=context) or "")
    names = parameter.display_name_raw if argument else ", ".join([*parameter.opts, *parameter.secondary_opts])
    default = parameter.get_default(context, call=False)
    if default in (None, False, ()) or flag or callable(default):
        default = "required" if parameter.required else ""
    else:
        default = f"`{default}`"
    cells = (f"`{names} {kind}`".replace(" `", "`"), str(default), _shown(parameter.help or ""))
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _plain(text: str) -> str:
    """A help text as it was written: brackets are escaped for the terminal."""
    return text.replace("\\[", "[").replace("\b", "")


def _shown(text: str) -> str:
    """A help text on a page, where no character of it is markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|$])", r"\\\1", _plain(text)).replace("\\`", "`")
