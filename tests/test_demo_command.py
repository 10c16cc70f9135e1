"""What the demonstration refuses before it begins."""

import pytest
import typer
from typer.testing import CliRunner

from demo import command

app = typer.Typer()
app.command()(command.demo)


@pytest.mark.parametrize("change", ["table=x.json", "table.x=1", "later_tables=[]", "weighting.follow='t'", "seed=3"])
def test_what_it_sees_to_itself_is_refused(tmp_path, change):
    result = CliRunner().invoke(app, ["--output", str(tmp_path / "demo"), "--set", change])
    assert result.exit_code == 2
    assert "is not for the demonstration, which sees to it" in result.stderr
    assert not (tmp_path / "demo").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    result = CliRunner().invoke(app, ["--output", str(tmp_path)])
    assert result.exit_code == 2
    assert "is not empty and holds no demonstration" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
