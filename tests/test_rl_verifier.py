"""Verifier processes: limits hold, verdicts depend on nothing but the answer, and nothing outlives the run."""

import os
import random
import signal
import subprocess
import sys
import time
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

OWN = '''
"""A user's task whose verifier does what the response says."""
import os, random, sys, time
from rl.tasks.protocol import Prompt

seen = 0

class Obedient:
    def __init__(self, secret="x", broken=False):
        if broken:
            raise ValueError("no such thing")
        self.secret = secret

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
            return len([bytearray(2**26) for _ in range(1000)]) > 3
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
    monkeypatch.delitem(sys.modules, "own_task", raising=False)
    return tmp_path


def config(path: str = "own_task:Obedient", *, parameters: dict[str, Any] | None = None, **verifier: Any) -> Config:
    settings = {"workers": 2, "seconds_per_answer": 0.2, "memory_mib": 200, "sealed": False, **verifier}
    task = {"name": "import", "path": path, "parameters": parameters or {}}
    return parse_config({"task": task, "verifier": settings})


PROMPT = Prompt(id="p", text="?", difficulty="all", problem="x")


def verdicts(pool: VerifierPool, *responses: str) -> list[Judged]:
    return pool.judge([(PROMPT, response) for response in responses])


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
        "recurse": Verdict.FAILED,
    }
    responses = [each for pair in zip(bad, ["x", "y"] * 5, strict=True) for each in pair]
    started = time.perf_counter()
    with open_verifier(config()) as pool:
        assert isinstance(pool, VerifierPool)
        judged = verdicts(pool, *responses)
        assert [each.verdict for each in judged[1::2]] == [Verdict.RIGHT, Verdict.WRONG] * 5
        assert {response: each.verdict for response, each in zip(responses[::2], judged[::2], strict=True)} == bad
        reasons = dict(zip(responses[::2], [each.reason for each in judged[::2]], strict=True))
        assert reasons["raise"] == "KeyError: 'lost'"
        assert reasons["eat"] == "MemoryError:"
        assert "RecursionError" in reasons["recurse"]
        assert "SIGSEGV" in reasons["crash"]
        assert [each.verdict for each in verdicts(pool, "nothing", "x")] == [Verdict.UNREADABLE, Verdict.RIGHT]
        assert pool.judge([]) == []
    assert time.perf_counter() - started < 60  # a few seconds on an idle machine
    assert own


def test_what_is_no_verdict_is_not_right_however_true_it_looks(own: Path) -> None:
    said = ["word", "score", "nan", "one", "array", "yes", "no"]
    with open_verifier(config(memory_mib=2000, seconds_per_answer=10)) as pool:
        assert isinstance(pool, VerifierPool)
        judged = verdicts(pool, *(f"say {each}" for each in said))
    assert [each.verdict for each in judged] == [Verdict.FAILED] * 5 + [Verdict.RIGHT, Verdict.WRONG]
    assert judged[0].reason == "verify returned 'wrong', of type str: it must return True, False or None"
    assert judged[1].reason == "verify returned 0.1, of type float: it must return True, False or None"
    assert own


def test_a_verifier_that_waits_is_stopped_by_the_clock(own: Path) -> None:
    with open_verifier(config(seconds_per_answer=0.02, workers=1)) as pool:
        assert isinstance(pool, VerifierPool)
        started = time.perf_counter()
        assert verdicts(pool, "sleep")[0].verdict is Verdict.TIMED_OUT
        assert 0.15 < time.perf_counter() - started < 4
        assert verdicts(pool, "x")[0].verdict is Verdict.RIGHT
    assert own


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


def test_a_process_that_dies_or_hangs_is_replaced(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with VerifierPool(config().task, config(workers=1).verifier) as pool:
        (worker,) = pool._workers
        os.kill(worker._process.pid, signal.SIGKILL)
        assert verdicts(pool, "x")[0] == Judged(verdict=Verdict.FAILED, reason="the verifier process ended")
        assert verdicts(pool, "x")[0].verdict is Verdict.RIGHT
        (worker,) = pool._workers
        os.kill(worker._process.pid, signal.SIGSTOP)
        monkeypatch.setattr(pool, "_limit", 0.3)
        assert verdicts(pool, "y" * 2**20)[0].verdict is Verdict.TIMED_OUT  # more than a pipe takes in
        monkeypatch.undo()
        assert verdicts(pool, "x")[0].verdict is Verdict.RIGHT
    assert own


def test_nothing_outlives_the_run(own: Path) -> None:
    """Killed without warning while a verifier is at work, the processes end by themselves within the limit."""
    script = """
import sys
from rl.config import parse_config
from rl.tasks.protocol import Prompt
from rl.verification.pool import VerifierPool
task = {"name": "import", "path": "own_task:Obedient"}
c = parse_config({"task": task, "verifier": {"workers": 2, "seconds_per_answer": 1.0, "sealed": False}})
pool = VerifierPool(c.task, c.verifier).__enter__()
print(*(worker._process.pid for worker in pool._workers), flush=True)
pool.judge([(Prompt(id="p", text="?", difficulty="", problem="x"), "loop")])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(own), str(Path(__file__).parent.parent)])}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment, text=True) as run:
        assert run.stdout is not None
        sessions = [int(number) for number in run.stdout.readline().split()]
        assert len(sessions) == 2
        time.sleep(0.3)
        run.kill()
    deadline = time.monotonic() + 30
    while any(_alive(session) for session in sessions):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(session: int) -> bool:
    """Whether any process of the session is left that is not a zombie."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, found = stat.read_text().rpartition(") ")[2].split()[:4]
        except OSError:
            continue
        if int(found) == session and state != "Z":
            return True
    return False


@pytest.mark.parametrize(
    ("path", "parameters", "sentence"),
    [
        ("own_task:Obedient", {"broken": True}, r"cannot be started: task.path 'own_task:Obedient' .* no such thing$"),
        ("own_task:absent", {}, r"cannot be started: .*has no attribute 'absent'"),
        ("own_absent:task", {}, r"cannot be started: .*No module named 'own_absent'"),
        ("own_task:nothing", {}, r"gives no task: it needs verify"),
        ("own_task:ready", {"secret": "z"}, r"cannot be called, so task.parameters have no use"),
    ],
)
def test_a_verifier_that_cannot_be_built_is_one_sentence(
    own: Path, path: str, parameters: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence), open_verifier(config(path, parameters=parameters, workers=1)):
        pass
    assert own


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

    judgement = judge(Batch(groups=(group(LONGEST_RESPONSE + 1), group(LONGEST_RESPONSE))), Unaware())
    np.testing.assert_array_equal(judgement.correct, [[False], [True]])
    np.testing.assert_array_equal(judgement.parsable, [[False], [True]])


def test_our_own_tasks_are_judged_in_this_process() -> None:
    with open_verifier(parse_config({"task": {"name": "addition", "digits": {"1": 1}}})) as verifier:
        assert isinstance(verifier, Addition)
