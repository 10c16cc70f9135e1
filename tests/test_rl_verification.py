"""Verifier processes: limits hold, verdicts depend on nothing but the answer, and nothing outlives the run."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl.config import Config, parse_config
from rl.errors import UsageError
from rl.samplers.rollout import Batch, Completion, Group
from rl.step.success import LONGEST_RESPONSE, Judgement, judge
from rl.tasks.addition import Addition
from rl.tasks.protocol import Prompt
from rl.verification.pool import VerifierPool, open_verifier
from rl.verification.verdict import Judged, Verdict
from tests.amounts import some_of

OWN = '''
"""A user's task whose verifier does what the response says."""
import os, random, signal, subprocess, sys, time
from rl.tasks.protocol import Prompt

seen = 0

class Obedient:
    def __init__(self, secret="x", broken=False, helped=False):
        if broken:
            raise ValueError("no such thing")
        self.secret = secret
        self.helper = subprocess.Popen(["sleep", "1000"]) if helped else None

    def propose(self, rng):
        return Prompt(id="p", text="?", difficulty="all", problem=self.secret)

    def verify(self, prompt, response):
        global seen
        seen += 1
        print("this is not a reply")
        sys.stdout.flush()
        os.write(1, b"R")
        verb, _, rest = response.partition(" ")
        if verb == "loop":
            while True: pass
        if verb == "power":
            return 9 ** 9 ** 9 ** 9 > 3
        if verb == "sleep":
            time.sleep(1000)
        if verb == "eat":
            return len([bytes(2**26) for _ in range(1000)]) > 3  # address space, taken without the work of filling it
        if verb == "shout":  # on every descriptor that this process may have
            for number in range(3, 256):
                try:
                    os.write(number, b"R" * int(rest))
                except OSError:
                    pass
            return True
        if verb == "open":
            return sorted(map(int, os.listdir("/dev/fd")))[:-1] == [int(number) for number in rest.split()]
        if verb == "reply":  # into the pipe of the process that waits for this one
            for name in os.listdir(f"/proc/{os.getppid()}/fd"):
                if name != "0" and os.readlink(f"/proc/{os.getppid()}/fd/{name}").startswith("pipe:"):
                    with open(f"/proc/{os.getppid()}/fd/{name}", "wb", 0) as pipe:
                        pipe.write(bytes.fromhex(rest))
            return False
        if verb == "deaf":
            for number in range(1, 65):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            while True: pass
        if verb == "close":
            os.close(3)
            time.sleep(1000)
        if verb == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if verb == "stopall":
            os.kill(0, signal.SIGSTOP)
        if verb == "beget":
            subprocess.run([sys.executable, "-c", "while True: pass"])
        if verb == "helper":
            open(rest, "w").write(str(self.helper.pid))
            return True
        if verb == "flee":  # out of session, group and family
            code = "import os, time; open(os.sys.argv[1], 'w').write(str(os.getpid())); time.sleep(1000)"
            start = "import subprocess as s, sys; s.Popen([sys.executable, '-c'] + sys.argv[1:], start_new_session=1)"
            subprocess.run([sys.executable, "-c", start, code, rest + ".new"], start_new_session=True)
            while not os.path.exists(rest + ".new") or not os.path.getsize(rest + ".new"):
                time.sleep(0.01)
            os.rename(rest + ".new", rest)
            while "stay" in rest: time.sleep(1)
            return True
        if verb == "crash":
            os.kill(os.getpid(), 11)
        if verb == "leave":
            os._exit(int(rest))
        if verb == "raise":
            raise KeyError("lost")
        if verb == "quit":
            sys.exit(0)
        if verb == "recurse":
            f = lambda n: f(n + 1)
            return f(0)
        if verb == "write":
            open(rest, "w").write("x")
        if verb == "eval":
            return bool(eval(rest))
        if verb == "seen":
            return seen == int(rest)
        if verb == "random":
            return f"{random.random():.12f}" == rest
        if verb == "nothing":
            return None
        if verb == "say":
            import numpy
            return {"word": "wrong", "score": 0.1, "nan": float("nan"), "one": 1, "yes": numpy.True_,
                    "no": numpy.bool_(False), "array": numpy.ones(1, dtype=bool)}[rest]
        return response == prompt.problem

ready = Obedient("y")
nothing = 3
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_task.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("WEIGHTOPT_ALLOW_IMPORT", "own_task")
    monkeypatch.delitem(sys.modules, "own_task", raising=False)
    return tmp_path


def config(path: str = "own_task:Obedient", *, parameters: dict[str, Any] | None = None, **verifier: Any) -> Config:
    # A hundred times what the slowest honest answer here takes; what loops comes to any limit.
    settings = {"workers": 2, "seconds_per_answer": 2, "memory_mib": 200, "sealed": False, **verifier}
    task = {"name": "import", "path": path, "parameters": parameters or {}}
    return parse_config({"task": task, "verifier": settings})


PROMPT = Prompt(id="p", text="?", difficulty="all", problem="x")


def verdicts(pool: VerifierPool, *responses: str) -> list[Judged]:
    return pool.judge([(PROMPT, response) for response in responses])


@pytest.mark.slow
def test_every_end_of_a_verifier_is_a_verdict(own: Path) -> None:
    """Time, memory, stack, signals and exceptions; and the answers beside them are judged as if alone."""
    bad = {
        "loop": Verdict.TIMED_OUT,
        "power": Verdict.TIMED_OUT,
        "eat": Verdict.FAILED,
        "crash": Verdict.FAILED,
        "leave 0": Verdict.FAILED,
        "leave 1": Verdict.FAILED,
        "leave 82": Verdict.FAILED,  # the byte of "right" as an exit status
        "raise": Verdict.FAILED,
        "quit": Verdict.FAILED,
        "close": Verdict.FAILED,
        "shout 1": Verdict.FAILED,
        "recurse": Verdict.FAILED,
    }
    responses = [each for pair in zip(bad, ["x", "y"] * 6, strict=True) for each in pair]
    with open_verifier(config()) as pool:
        assert isinstance(pool, VerifierPool)
        judged = verdicts(pool, *responses)
        assert [each.verdict for each in judged[1::2]] == [Verdict.RIGHT, Verdict.WRONG] * 6
        assert {response: each.verdict for response, each in zip(responses[::2], judged[::2], strict=True)} == bad
        reasons = dict(zip(responses[::2], [each.reason for each in judged[::2]], strict=True))
        assert reasons["raise"] == "KeyError: 'lost'"
        assert reasons["eat"] == "MemoryError:"
        assert "RecursionError" in reasons["recurse"]
        assert "SIGSEGV" in reasons["crash"]
        assert [each.verdict for each in verdicts(pool, "nothing", "x")] == [Verdict.UNREADABLE, Verdict.RIGHT]
        assert pool.judge([]) == []
    assert own


@pytest.mark.slow
def test_what_is_no_verdict_is_not_right_however_true_it_looks(own: Path) -> None:
    said = ["word", "score", "nan", "one", "array", "yes", "no"]
    with open_verifier(config(memory_mib=2000, seconds_per_answer=10)) as pool:
        assert isinstance(pool, VerifierPool)
        judged = verdicts(pool, *(f"say {each}" for each in said))
    assert [each.verdict for each in judged] == [Verdict.FAILED] * 5 + [Verdict.RIGHT, Verdict.WRONG]
    assert judged[0].reason == "verify returned 'wrong', of type str: it must return True, False or None"
    assert judged[1].reason == "verify returned 0.1, of type float: it must return True, False or None"
    assert own


@pytest.mark.slow
def test_a_verifier_that_waits_is_stopped_by_the_clock(own: Path) -> None:
    with open_verifier(config(seconds_per_answer=0.5, workers=1)) as pool:
        assert isinstance(pool, VerifierPool)
        started = time.perf_counter()
        assert verdicts(pool, "sleep")[0].verdict is Verdict.TIMED_OUT
        assert time.perf_counter() - started > 4.9
        assert verdicts(pool, "x")[0].verdict is Verdict.RIGHT
    assert own


@pytest.mark.slow
@pytest.mark.parametrize("way", ["deaf", "stop", "stopall"])
def test_a_verifier_that_no_timer_ends_is_killed(own: Path, way: str) -> None:
    """By the process that waits for it; and where that one has been stopped too, by the pool."""
    with open_verifier(config(seconds_per_answer=0.2, workers=1)) as pool:
        assert isinstance(pool, VerifierPool)
        assert verdicts(pool, way)[0].verdict is Verdict.TIMED_OUT
    with open_verifier(config(workers=1)) as pool:
        assert isinstance(pool, VerifierPool)
        assert verdicts(pool, "x")[0].verdict is Verdict.RIGHT
    assert own


@pytest.mark.slow
def test_a_verifier_has_no_descriptor_but_that_of_its_reply(own: Path) -> None:
    with open_verifier(config(workers=1)) as pool:
        assert isinstance(pool, VerifierPool)
        assert verdicts(pool, "open 0 1 2 3")[0].verdict is Verdict.RIGHT
    assert own


@pytest.mark.slow
@some_of("count", [1, 2, 12, 13, 5000], 1)
def test_what_a_verifier_writes_elsewhere_moves_no_verdict_to_another_answer(own: Path, count: int) -> None:
    """Seven answers around one that writes on every descriptor: an attack that shifted all verdicts after it by one."""
    honest = {"x": "R", "y": "W", "nothing": "U", "raise": "F", "eval 1": "R", "eval 0": "W", "z": "W"}
    with open_verifier(config(workers=1)) as pool:
        assert isinstance(pool, VerifierPool)
        for _ in range(2):
            asked = [*honest, f"shout {count}", *honest]
            found = dict(zip(asked, verdicts(pool, *asked), strict=True))
            assert found.pop(f"shout {count}").verdict is Verdict.FAILED
            assert {response: each.verdict.value.decode() for response, each in found.items()} == honest
            assert [each.verdict.value.decode() for each in verdicts(pool, *honest)] == list(honest.values())
    assert own


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no way to the descriptors of another process")
@some_of("stray", [Judged(verdict=Verdict.RIGHT).reply(0), b"R", b"W" * 3000], 0)
def test_a_forged_reply_is_a_failure_of_one_answer_and_no_more(own: Path, stray: bytes) -> None:
    """Not closed to a program that may open files for writing and has the same user: the number of the request is."""
    with open_verifier(config(workers=1)) as pool:
        assert isinstance(pool, VerifierPool)
        judged = verdicts(pool, "y", "x", f"reply {stray.hex()}", "nothing", "z", "eval 1")
        assert [each.verdict.value.decode() for each in judged] == ["W", "R", "F", "U", "W", "R"]
        assert judged[2].reason == "the verifier process gave no reply"
    assert own


@pytest.mark.slow
def test_what_is_written_between_two_requests_costs_nothing(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_verifier(config(workers=1)) as pool:
        assert isinstance(pool, VerifierPool)
        (before,) = pool._workers
        with monkeypatch.context() as patch:
            ours, theirs = os.pipe()
            os.write(theirs, b"R")
            patch.setattr(before, "replies", ours)
            assert verdicts(pool, "y")[0].verdict is Verdict.WRONG
        assert pool._workers != [before]
        os.close(ours)
        os.close(theirs)
    assert own


def test_a_reply_is_read_whole_or_not_at_all() -> None:
    """Every cut, every flipped bit and every addition is none, but for bits of the text."""
    judged = Judged(verdict=Verdict.FAILED, reason="Lösung")
    reply = judged.reply(7)
    assert Judged.read(reply, 7) == judged
    assert Judged.read(reply, 8) is None
    assert all(Judged.read(reply[:end], 7) is None for end in range(len(reply)))
    for extra in (b"R", reply):
        assert Judged.read(extra + reply, 7) is None
        assert Judged.read(reply + extra, 7) is None
    for place in range(13):
        for bit in range(8):
            broken = bytes(byte ^ (1 << bit if index == place else 0) for index, byte in enumerate(reply))
            assert Judged.read(broken, 7) is None
    assert len(Judged(verdict=Verdict.FAILED, reason="x" * 10**6).reply(7)) < 4096


@pytest.mark.slow
def test_verdicts_depend_on_the_answer_alone(own: Path) -> None:
    """Not on what came before, on the order, or on the number of processes; generators start the same each time."""
    random.seed(0)
    first = f"random {random.random():.12f}"
    responses = ["x", "y", "seen 1", "seen 2", first, "nothing", "raise", "eval 1+1", "x"]
    expected = dict(zip(responses, ["R", "W", "R", "W", "R", "U", "F", "R", "R"], strict=True))
    rng = random.Random(1)
    for workers in (1, 3):
        with VerifierPool(config().task, config(workers=workers).verifier) as pool:
            for _ in range(2):
                asked = rng.sample(responses, len(responses)) * 2
                found = [each.verdict.value.decode() for each in verdicts(pool, *asked)]
                assert found == [expected[response] for response in asked]
    assert own


@pytest.mark.slow
def test_a_sealed_verifier_cannot_touch_anything(own: Path) -> None:
    canary = own / "canary"
    responses = [
        f"write {canary}",
        f"eval open({str(canary)!r}, 'w')",
        f"eval __import__('os').system('touch {canary}')",
        f"eval [].__class__.__base__.__subclasses__() or open({str(canary)!r}, 'w')",
        f"eval (lambda: open({str(canary)!r}, 'w'))()",
        "eval [x for x in (1,)]",
        "crash",
    ]
    with open_verifier(config(sealed=True)) as pool:
        assert isinstance(pool, VerifierPool)
        judged = verdicts(pool, *responses)
        assert [each.verdict for each in judged] == [Verdict.FAILED] * len(responses)
        assert all("SealError" in each.reason for each in judged), judged
        assert verdicts(pool, "eval (1 + 2) * 3 == 9")[0].verdict is Verdict.RIGHT
        assert not canary.exists()
    with open_verifier(config(sealed=False)) as pool:  # which shows that the canary sings
        assert isinstance(pool, VerifierPool)
        verdicts(pool, responses[2])
        assert canary.exists()


@pytest.mark.slow
def test_a_process_that_dies_or_hangs_is_replaced(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with VerifierPool(config().task, config(workers=1).verifier) as pool:
        (worker,) = pool._workers
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.wait()
        assert verdicts(pool, "x")[0].verdict is Verdict.RIGHT
        (worker,) = pool._workers
        os.kill(worker._process.pid, signal.SIGSTOP)
        monkeypatch.setattr(pool, "_limit", 0.3)
        assert verdicts(pool, "y" * 2**20)[0].verdict is Verdict.TIMED_OUT  # more than a pipe takes in
        monkeypatch.undo()
        assert verdicts(pool, "x")[0].verdict is Verdict.RIGHT
    assert own


@pytest.mark.slow
@some_of("way", ["loop", "sleep", "deaf", "stop", "stopall", "beget", ""], 1)
def test_nothing_outlives_the_run(own: Path, way: str) -> None:
    """Killed without warning, whatever a verifier is doing then: the processes go, long before any limit of theirs."""
    script = """
import sys
from rl.config import parse_config
from rl.tasks.protocol import Prompt
from rl.verification.pool import VerifierPool
task = {"name": "import", "path": "own_task:Obedient"}
c = parse_config({"task": task, "verifier": {"workers": 2, "seconds_per_answer": 3600, "sealed": False}})
pool = VerifierPool(c.task, c.verifier).__enter__()
print(*(worker._process.pid for worker in pool._workers), flush=True)
prompts = [Prompt(id=str(n), text="?", difficulty="", problem="x") for n in range(2)]
pool.judge([(prompt, sys.argv[1]) for prompt in prompts]) if sys.argv[1] else sys.stdin.read()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(own), str(Path(__file__).parent.parent)])}
    environment |= {"WEIGHTOPT_ALLOW_IMPORT": "own_task"}
    with subprocess.Popen(
        [sys.executable, "-c", script, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as run:
        assert run.stdout is not None
        sessions = [int(number) for number in run.stdout.readline().split()]
        assert len(sessions) == 2
        expected = {"": 1, "beget": 3}.get(way, 2)
        _wait_until(lambda: all(len(_members(session)) == expected for session in sessions))
        if way.startswith("stop"):
            _wait_until(lambda: all("T" in _members(session).values() for session in sessions))
        run.kill()
    _wait_until(lambda: not any(map(_members, sessions)))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="orphans are handed to an ancestor on Linux only")
@pytest.mark.parametrize("end", ["answer", "pool", "run"])
def test_what_has_left_session_and_parent_ends_too(own: Path, end: str) -> None:
    """With its answer; with the pool, which gives it up; and with a run that is killed."""
    script = """
import sys
from rl.config import parse_config
from rl.tasks.protocol import Prompt
from rl.verification.pool import VerifierPool
task = {"name": "import", "path": "own_task:Obedient"}
c = parse_config({"task": task, "verifier": {"workers": 1, "seconds_per_answer": 3600, "sealed": False}})
with VerifierPool(c.task, c.verifier) as pool:
    prompt = Prompt(id="p", text="?", difficulty="", problem="x")
    pool._workers[0].send(prompt, sys.argv[1], limit=3600)
    sys.stdin.read()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(own), str(Path(__file__).parent.parent)])}
    environment |= {"WEIGHTOPT_ALLOW_IMPORT": "own_task"}
    fled = own / ("gone" if end == "answer" else "stay")
    with subprocess.Popen(
        [sys.executable, "-c", script, f"flee {fled}"], stdin=subprocess.PIPE, env=environment, text=True
    ) as run:
        assert run.stdin is not None
        _wait_until(fled.exists)
        if end == "run":
            run.kill()
        elif end == "pool":
            run.stdin.close()
        _wait_until(lambda: not Path(f"/proc/{fled.read_text()}").exists())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no way to see whether a process is there")
def test_what_a_verifier_needs_from_answer_to_answer_stays_until_the_pool_ends(own: Path) -> None:
    with VerifierPool(config(parameters={"helped": True}).task, config(workers=1).verifier) as pool:
        for answer in (f"helper {own / 'number'}", f"flee {own / 'gone'}", "x"):
            assert verdicts(pool, answer)[0].verdict is Verdict.RIGHT
        stat = Path(f"/proc/{(own / 'number').read_text()}/stat")
        assert stat.read_text().rpartition(") ")[2][0] == "S"
    _wait_until(lambda: not stat.exists())


def _wait_until(holds: Callable[[], bool]) -> None:
    """For as long as it takes, but not for ever."""
    deadline = time.monotonic() + 600
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _members(session: int) -> dict[int, str]:
    """The states of the processes of a session, by their numbers, zombies left out."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, member_of = stat.read_text().rpartition(") ")[2].split()[:4]
        except OSError:
            continue
        if int(member_of) == session and state != "Z":
            found[int(stat.parent.name)] = state
    return found


@some_of(
    ("path", "parameters", "sentence"),
    [
        ("own_task:Obedient", {"broken": True}, r"cannot be started: task.path 'own_task:Obedient' .* no such thing$"),
        ("own_task:absent", {}, r"cannot be started: .*has no attribute 'absent'"),
        ("own_absent:task", {}, r"cannot be started: .*No module named 'own_absent'"),
        ("own_task:nothing", {}, r"gives no task: it needs verify"),
        ("own_task:ready", {"secret": "z"}, r"cannot be called, so task.parameters have no use"),
    ],
    1,
)
def test_a_verifier_that_cannot_be_built_is_one_sentence(
    own: Path, path: str, parameters: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence), open_verifier(config(path, parameters=parameters, workers=1)):
        pass
    assert own


@pytest.mark.slow
def test_the_verdicts_of_a_batch(own: Path) -> None:
    def completion(text: str, *, finished: bool = True) -> Completion:
        return Completion(tokens=(1,), log_probs=(0.0,), text=text, finished=finished)

    texts = [["x", "y", "loop", "nothing"], ["raise", "x", "x", "z"]]
    groups = tuple(
        Group(prompt=PROMPT, prompt_tokens=(0,), completions=tuple(completion(text) for text in row)) for row in texts
    )
    cut = Group(prompt=PROMPT, prompt_tokens=(0,), completions=(completion("x", finished=False), completion("x")) * 2)
    with open_verifier(config()) as pool:
        judgement = judge(Batch(groups=(*groups, cut)), pool)
    right = [[True, False, False, False], [False, True, True, False], [False, True, False, True]]
    read = [[True, True, False, False], [False, True, True, True], [False, True, False, True]]
    assert judgement.correct.tolist() == right
    assert judgement.parsable.tolist() == read
    assert (judgement.timed_out, judgement.failed, judgement.reason) == (1, 1, "KeyError: 'lost'")
    twice = Judgement.concatenate([judgement, judgement])
    assert twice.correct.tolist() == right * 2
    assert (twice.timed_out, twice.failed, twice.reason) == (2, 2, "KeyError: 'lost'")
    assert own


def test_no_verifier_is_shown_a_response_that_is_too_long() -> None:
    class Unaware(Addition):
        def verify(self, prompt: Prompt[Any], response: str) -> bool | None:  # noqa: ARG002
            assert len(response) <= LONGEST_RESPONSE
            return True

    def group(length: int) -> Group:
        completion = Completion(tokens=(1,), log_probs=(0.0,), text="9" * length, finished=True)
        return Group(prompt=PROMPT, prompt_tokens=(0,), completions=(completion,))

    batch = Batch(groups=(group(LONGEST_RESPONSE + 1), group(LONGEST_RESPONSE)))
    judgement = judge(batch, Unaware(name="addition", digits={1: 1.0}))
    np.testing.assert_array_equal(judgement.correct, [[False], [True]])
    np.testing.assert_array_equal(judgement.parsable, [[False], [True]])


def test_our_own_tasks_are_judged_in_this_process() -> None:
    with open_verifier(parse_config({"task": {"name": "addition", "digits": {"1": 1}}})) as verifier:
        assert isinstance(verifier, Addition)
