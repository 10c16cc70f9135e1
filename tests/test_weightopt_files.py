"""Files are read within bounds, and the command line works with standard streams that are closed."""

import json
import os
import subprocess
import sys

import pytest

from tests.amounts import some_of
from weightopt.files import read_file

SOLVE = ["solve", "--start", "0.01", "--target", "0.9", "--clock"]


def test_one_byte_too_many_tells_that_a_file_is_too_large(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_file(file, 5) == b"12345"
    assert read_file(file, 3) == b"1234"


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_what_would_be_waited_for_or_never_end_is_refused(pipe, tmp_path):
    for path in (pipe, "/dev/zero"):
        with pytest.raises(OSError, match="not a regular file"):
            read_file(path, 10)
    with pytest.raises(OSError, match="Is a directory"):
        read_file(tmp_path, 10)


def weightopt(*arguments, closed=()):
    """The command line in a process of its own, with some of its standard streams closed."""

    def close():
        for number in closed:
            os.close(number)

    return subprocess.run(
        [sys.executable, "-m", "weightopt", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=close,
    )


@pytest.mark.slow
@some_of(
    "arguments",
    [
        ["check"],
        [*SOLVE, "csv:"],
        ["population", "--target", "0.5", "--rates"],
        ["population", "--target", "0.5", "--metrics"],
    ],
    1,
    ids=["table", "clock", "rates", "metrics"],
)
def test_a_pipe_for_an_input_is_one_sentence(pipe, arguments):
    *front, last = arguments
    named = [*front, f"{last}{pipe}"] if last == "csv:" else [*arguments, pipe]
    result = weightopt(*named)
    assert result.returncode in (1, 2)
    assert "not a regular file" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
@some_of("closed", [(0, 1, 2), (1,), (2,)], 1)
def test_closed_streams_end_in_no_traceback_and_in_no_file(closed, tmp_path):
    table = tmp_path / "table.json"
    result = weightopt(*SOLVE, "effective", "--output", table, closed=closed)
    assert result.returncode == 0
    assert "Traceback" not in result.stderr
    assert json.loads(table.read_text())["name"]  # what would have been printed is not in it
