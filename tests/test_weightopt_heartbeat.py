"""Commands that take long say a line from time to time, wherever their output goes; nothing when all is quick."""

import re
import threading

import pytest

from weightopt import heartbeat
from weightopt.heartbeat import Heartbeat


@pytest.fixture
def at_once(monkeypatch):
    """Beats that need no waiting."""
    monkeypatch.setattr(heartbeat, "SECONDS", 0.0)


@pytest.mark.usefixtures("at_once")
def test_it_beats_until_the_block_ends():
    lines, third = [], threading.Event()

    def say(line):
        lines.append(line)
        if len(lines) == 3:
            third.set()

    with Heartbeat(lambda seconds: f"after {seconds:.3f}", say):
        assert third.wait(60)
    count = len(lines)
    assert count >= 3
    assert all(re.fullmatch(r"after \d+\.\d{3}", line) for line in lines)
    assert threading.active_count() == len(threading.enumerate())
    assert len(lines) == count


@pytest.mark.usefixtures("at_once")
def test_who_asks_for_quiet_hears_nothing():
    lines = []
    before = threading.active_count()
    with Heartbeat(str, lines.append, active=False) as beat:
        beat.heard()
        assert threading.active_count() == before
    assert lines == []


def test_what_ends_soon_says_nothing_and_does_not_wait():
    lines = []
    with Heartbeat(str, lines.append):
        pass
    assert lines == []


@pytest.mark.usefixtures("at_once")
def test_a_closed_pipe_stops_the_line_and_not_the_work():
    tried = threading.Event()

    def broken(_):
        tried.set()
        raise BrokenPipeError

    with Heartbeat(str, broken):
        assert tried.wait(60)


@pytest.mark.usefixtures("at_once")
def test_whoever_spoke_last_puts_it_off(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(heartbeat, "SECONDS", 30.0)
    lines = []
    beat = Heartbeat(lambda seconds: f"{seconds:g}", lines.append)
    waits = []

    def wait(seconds):
        """In place of the clock: time passes, and 25 s in something else is said."""
        waits.append(seconds)
        now[0] += seconds
        if len(waits) == 1:
            beat._last = 25.0
        return len(waits) > 3

    monkeypatch.setattr(beat._over, "wait", wait)
    beat._beat()
    assert waits == [30.0, 25.0, 30.0, 30.0]
    assert lines == ["55", "85"]
