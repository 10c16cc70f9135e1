"""docs/json.md names every key that ``--json`` prints, and none that it does not."""

import json
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from weightopt import cli

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
GOAL = ["--start", "0.1", "--target", "0.9", "--clock", "effective"]
RANGE = ["--start-range", "0.1", "0.3", "--target", "0.9", "--clock", "effective", "--group-size", "4"]
CALLS = {
    "solve": [
        ["solve", *GOAL],
        ["solve", *GOAL, "--group-size", "4"],
        ["solve", *GOAL, "--group-size", "4", "--plug-in"],
        ["solve", *RANGE],
    ],
    "compare": [["compare", *GOAL], ["compare", *GOAL, "--group-size", "4"]],
    "population": [["population", "--preset", "post-sft", "--prompts", "6", "--target", "0.7", "--clock", "regular"]],
    "sweep": [["sweep", *GOAL, "--workers", "1", "--output", "sweep.csv"]],
    "table": [["table", "--weighting", "grpo", "--group-size", "4"], ["table", "--weighting", "grpo"]],
    "show": [["show", "table.json"]],
    "list": [["list"]],
    "check": [["check", "table.json"]],
    "advise": [["advise", "--pass-rates", "rates.csv", "--group-sizes", "4", "--resamples", "20"]],
    "doctor": [["doctor"], ["doctor", "trl.yaml"]],
}


def described(command: str) -> set[str]:
    """The keys that the page has for a command: first column of its table."""
    sections = re.split(r"^## ", PAGE, flags=re.M)
    (section,) = (each for each in sections if f"`{command}`" in each.partition("\n")[0])
    rows = re.findall(r"^\|(.*?)\|", section, re.M)[2:]
    return {key for row in rows for key in re.findall(r"`(\w+)`", row)}


@pytest.mark.slow
@pytest.mark.parametrize("command", CALLS)
def test_the_page_names_the_keys_that_are_printed(command, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rates.csv").write_text("correct,responses\n" + "1,8\n3,8\n6,8\n" * 7, encoding="utf-8")
    (tmp_path / "trl.yaml").write_text("num_generations: 4\nscale_rewards: none\n", encoding="utf-8")
    printed: set[str] = set()
    for call in (["table", "--weighting", "grpo", "--group-size", "4", "--output", "table.json"], *CALLS[command]):
        as_json = ["--json"] if "--output" not in call or "sweep" in call else []
        monkeypatch.setattr(sys, "argv", ["weightopt", *call, *as_json])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code in ((0, 1) if command == "doctor" else (0,))
        out = capsys.readouterr().out
        if as_json:
            found = json.loads(out)
            printed |= found.keys()
    assert printed == described(command)


def test_the_page_names_what_a_training_run_prints():
    from rl.preview import DryRun
    from rl.records.metrics import EvaluationRecord

    assert described("train") == {"output", *(each.name for each in fields(EvaluationRecord))}
    section = PAGE.partition("With `--dry-run` the document")[2].partition("\n\n")[0]
    assert {each.name for each in fields(DryRun)} == set(re.findall(r"`(\w+)`", section))


def test_every_command_with_json_has_a_section():
    import typer

    cli._add_commands([])
    commands = typer.main.get_command(cli.app).commands  # pyright: ignore[reportAttributeAccessIssue]
    with_json = {name for name, each in commands.items() if any("--json" in option.opts for option in each.params)}
    titles = re.findall(r"^## (.*)$", PAGE, re.M)
    assert with_json == {name for title in titles for name in re.findall(r"`([\w-]+)`", title)}
