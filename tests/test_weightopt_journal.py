"""The journal: whatever stands in it stays, one process writes, and what others did to it is noticed."""

import json
import os
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest

from weightopt.journal import JournalError, open_journal

ROOT = Path(__file__).parent.parent
ENTRIES = [{"cell": number, "rows": [[0.1 * number, 2.0]]} for number in range(4)]


def filled(path: Path) -> bytes:
    with open_journal(path, "a problem") as journal:
        for entry in ENTRIES:
            journal.append(entry)
    return path.read_bytes()


def test_what_is_appended_is_there(tmp_path):
    path = tmp_path / "cells.jsonl"
    data = filled(path)
    assert [json.loads(line)["entry"] for line in data.splitlines()] == ["a problem", *ENTRIES]
    with open_journal(path, "a problem") as journal:
        assert journal.entries == ENTRIES
        journal.append("é")
    assert path.read_bytes().startswith(data)
    with pytest.raises(JournalError, match="holds results of something else"), open_journal(path, "another"):
        pass


def test_every_change_of_a_line_is_noticed(tmp_path):
    path = tmp_path / "cells.jsonl"
    lines = filled(path).splitlines(keepends=True)
    orders = [order for length in (3, 4, 5) for order in permutations(range(5), length)]
    # Lines missing at the end are lines that were never written.
    wrong = [order for order in orders if order != tuple(range(len(order)))] + [(0, 1, 1, 2, 3, 4), (0, 1, 2, 3, 4, 4)]
    damaged = [b"".join(lines[number] for number in order) for order in wrong]
    whole = b"".join(lines)
    # A newline more or less is a line that was being written, or one that is none.
    damaged += [
        whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(len(whole)) if whole[at] != ord("\n")
    ]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(JournalError), open_journal(path, "a problem"):
            pass
        assert path.read_bytes() == data


def test_a_line_that_was_being_written_is_dropped(tmp_path):
    path = tmp_path / "cells.jsonl"
    data = filled(path)
    last = data.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(data)):
        path.write_bytes(data[:end])
        with open_journal(path, "a problem") as journal:
            assert journal.entries == ENTRIES[:-1]
            journal.append(ENTRIES[-1])
        assert path.read_bytes() == data


def test_one_process_writes_at_a_time(tmp_path):
    path = tmp_path / "cells.jsonl"
    with (
        open_journal(path, "a problem"),
        pytest.raises(JournalError, match="is being written by another process"),
        open_journal(path, "a problem"),
    ):
        pass
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(JournalError, match="not a regular file"), open_journal(tmp_path / "pipe", "a problem"):
        pass


def test_a_full_disk_loses_nothing(tmp_path):
    path = tmp_path / "cells.jsonl"
    data = filled(path)
    code = (
        "import sys, resource, signal; from pathlib import Path; from weightopt.journal import open_journal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(data) + 40}, resource.RLIM_INFINITY))\n"
        "with open_journal(Path(sys.argv[1]), 'a problem') as journal:\n"
        "    try: journal.append('x' * 1000)\n"
        "    except OSError: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"
    assert path.read_bytes() == data
