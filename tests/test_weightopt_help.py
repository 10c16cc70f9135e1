"""The help of every command, as it is printed: nothing is eaten, switches have no type, mistakes get a suggestion."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from weightopt import cli
from weightopt.commands.help import Command, plain, unwrapped

ROOT = Path(__file__).resolve().parent.parent
cli._add_commands([])
COMMANDS = typer.main.get_command(cli.app).commands  # pyright: ignore[reportAttributeAccessIssue]


def printed(monkeypatch, capsys, *arguments: str) -> tuple[object, str, str]:
    """Exit status and what a very wide terminal shows."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 4000)
    monkeypatch.setattr(sys, "argv", ["weightopt", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    shown = capsys.readouterr()
    return stopped.value.code, shown.out, shown.err


def written(command) -> list[str]:
    """The texts of a command as its source has them: from the annotations, not from what has been made of them."""
    texts = [re.split(r"\n *Examples:\n", inspect.getdoc(command.callback) or "")[0].split("\n\n")[0]]
    for parameter in inspect.signature(command.callback, eval_str=True).parameters.values():
        texts += [info.help for info in getattr(parameter.annotation, "__metadata__", ()) if info.help]
    return [" ".join(text.split()) for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_text_whole(name, monkeypatch, capsys):
    status, out, err = printed(monkeypatch, capsys, name, "--help")
    assert (status, err) == (0, "")
    shown = " ".join(out.split())
    texts = written(COMMANDS[name])
    assert len(texts) > 1 or not inspect.signature(COMMANDS[name].callback).parameters
    for text in texts:
        assert text in shown
    assert "<bool>" not in out
    assert "--help" in out


def test_the_first_page_names_version_and_completion(monkeypatch, capsys):
    _, out, _ = printed(monkeypatch, capsys, "--help")
    for word in ("--version", "--install-completion", "--show-completion", *COMMANDS):
        assert word in out
    assert "<bool>" not in out


@pytest.mark.slow
def test_solve_has_groups_and_three_examples_that_run(monkeypatch, capsys, tmp_path):
    _, out, _ = printed(monkeypatch, capsys, "solve", "--help")
    headings = re.findall(r"^╭─ ([^─]+) ─", out, re.M)
    assert headings == ["Curve", "Constraints on the curve", "Crowding limit", "Group", "Output"]
    examples = re.findall(r"\$ weightopt (.*)", out)
    assert len(examples) == 3
    monkeypatch.chdir(tmp_path)
    for example in examples:
        status, _, err = printed(monkeypatch, capsys, *example.split())
        assert (status, err) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {"weights.png", "table.json"}


@pytest.mark.parametrize("text", ["[floor, 1 - floor]", r"a \[b] c", "[/bold] [a]", "no brackets", r"\\[x]"])
def test_plain_text_survives_markup(text):
    from rich.text import Text

    assert Text.from_markup(plain(text)).plain == text


def test_paragraphs_are_broken_by_the_terminal_and_examples_are_not():
    text = "One line\n    and its end.\n\n    Another\n    one.\n\n    $ weightopt x\n      what it does"
    assert unwrapped(text) == "One line and its end.\n\nAnother one.\n\n$ weightopt x\n  what it does"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("solve", "--strat", "0.1"), "'--start'"),
        (("train", "--confg", "x"), "'--config'"),
        (("simulate", "--group-siz", "4"), "'--group-size'"),
        (("slove",), "'solve'"),
        (("tabel",), "'table'"),
    ],
)
def test_what_was_mistyped_gets_a_suggestion(arguments, meant, monkeypatch, capsys):
    status, out, err = printed(monkeypatch, capsys, *arguments)
    assert (status, out) == (2, "")
    assert re.fullmatch(rf"weightopt: no such .*Did you mean {meant}.*\?\n", err)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("solve", "--start", "abc", "--target", "0.9"), "--start must be a number, got 'abc'"),
        (("solve", "--start-range", "0.1", "b"), "--start-range must be numbers, got 'b'"),
        (("solve", "--group-size", "8.5"), "--group-size must be a whole number, got '8.5'"),
        (("explore", "--port", "99999"), "--port must be from 0 to 65535, got '99999'"),
        (("forecast", "--seed", "-1"), "--seed must be at least 0, got '-1'"),
        (
            ("--show-completion", "tcsh"),
            "--show-completion is for the shell that it is called from and takes no value, got 'tcsh'",
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_it_must_be(arguments, sentence, monkeypatch, capsys):
    assert printed(monkeypatch, capsys, *arguments) == (2, "", f"weightopt: {sentence}.\n")


def test_types_and_defaults_read_as_what_one_types(monkeypatch, capsys):
    _, out, _ = printed(monkeypatch, capsys, "forecast", "--help")
    assert re.search(r"--level +<float> +Mean success to be reached; repeatable\. +\[default: 0\.5\]", out)
    assert re.search(r"--steps +<int> \[1<=x<=100000\] ", out)
    _, out, _ = printed(monkeypatch, capsys, "simulate", "--help")
    assert "list[" not in out


def test_the_version_is_that_of_the_project(monkeypatch, capsys):
    stated = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert stated is not None
    assert printed(monkeypatch, capsys, "--version") == (0, f"weightopt {stated[1]}\n", "")


SHELLS = {
    "bash": {"COMP_WORDS": "weightopt solve --mono", "COMP_CWORD": "2"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "weightopt solve --mono"},
    "fish": {"_TYPER_COMPLETE_ARGS": "weightopt solve --mono", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_commands_and_options(shell):
    def call(instruction: str, **more: str) -> str:
        code = "import sys; sys.argv[0] = 'weightopt'; from weightopt.cli import main; main()"
        environment = {**os.environ, "_WEIGHTOPT_COMPLETE": f"{instruction}_{shell}", **more}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert "_WEIGHTOPT_COMPLETE" in call("source")
    assert "--monotone" in call("complete", **SHELLS[shell])


def test_commands_of_other_packages_are_set_the_same():
    assert {type(command) for command in COMMANDS.values()} == {Command}
