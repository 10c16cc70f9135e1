"""Tasks of a user's own: that of the documentation works, and what is none is refused in one sentence at the door."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rl import command
from rl.config import Config, parse_config
from rl.errors import UsageError
from rl.tasks.protocol import GeneratedTask
from rl.tasks.registry import build_task
from rl.tasks.split import held_out_prompts, training_prompts
from rl.verification.pool import VerifierPool, open_verifier
from rl.verification.verdict import Verdict

DOCUMENT = Path(__file__).parent.parent / "docs" / "training.md"

ODD = """
import sys
from rl.tasks.protocol import Prompt

def prompt(n, **changes):
    return Prompt(**{"id": str(n), "text": f"{n}?", "difficulty": "all", "problem": n, **changes})

class Odd:
    def __init__(self, way): self.way = way
    def verify(self, prompt, response): return False

class Proposing(Odd):
    def propose(self, rng):
        n = rng.randrange(1000)
        match self.way:
            case "raises": raise RuntimeError("boom\\nbang")
            case "leaves": sys.exit("bye")
            case "none": return None
            case "text": return "2+2"
            case "number": return prompt(n, id=n)
            case "nameless": return prompt(n, id="")
            case "silent": return prompt(n, text="")
            case "stratum": return prompt(n, difficulty=3)
            case "half": return prompt(n, text="\\ud800")
            case "function": return prompt(n, problem=lambda: 3)

class Listing(Odd):
    @property
    def training(self):
        match self.way:
            case "raises": raise RuntimeError("boom")
            case "endless": return 3
            case "texts": return ["a", "b"]
            case "empty": return []
        return [prompt(n) for n in range(20)]

    @property
    def held_out(self):
        return [prompt(n) for n in (range(19, 30) if self.way == "both" else [20, 21, 21])]
"""


def config(path: str, **parameters: Any) -> Config:
    return parse_config(
        {"task": {"name": "import", "path": path, "parameters": parameters}, "verifier": {"workers": 1}}
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for module in ("odd_tasks", "meant", "foreign", "parcel", "parcel.inner", "linked_task", "leaving", "doubling"):
        monkeypatch.delitem(sys.modules, module, raising=False)  # of the test before, in another folder
    monkeypatch.setenv("WEIGHTOPT_ALLOW_IMPORT", "")
    (tmp_path / "odd_tasks.py").write_text(ODD)
    return tmp_path


@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        ("raises", r"propose failed: RuntimeError: boom bang"),
        ("leaves", r"propose failed: SystemExit: bye"),
        ("none", r"propose gave None, which is no prompt: a rl.tasks.protocol.Prompt needs id and text"),
        ("text", r"propose gave '2\+2', which is no prompt: "),
        ("number", r"propose gave a prompt whose id is \d+: "),
        ("nameless", r"propose gave a prompt whose id is '': "),
        ("silent", r"propose gave a prompt whose text is '': "),
        ("stratum", r"propose gave a prompt whose difficulty is 3: "),
        ("half", r"whose text, '\\ud800', is no text that can be written in UTF-8"),
        ("function", r"whose problem cannot be pickled, as its way to the verifier needs: "),
    ],
)
def test_a_proposal_that_is_no_prompt(here: Path, way: str, sentence: str) -> None:
    task = build_task(config("odd_tasks:Proposing", way=way).task)
    with pytest.raises(UsageError, match=rf"^task\.path 'odd_tasks:Proposing': .*{sentence}") as caught:
        held_out_prompts(task, count=2, seed=0)
    assert "\n" not in str(caught.value)
    assert here


@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        ("raises", r" cannot be made into a task: RuntimeError: boom|: the list training cannot be read: Run.*boom"),
        ("endless", r": the list training cannot be read: TypeError"),
        ("texts", r": the list training gave 'a', which is no prompt"),
        ("empty", r": the list training is empty"),
        ("both", r": the id '19' stands twice in training and held_out together"),
        ("twice", r": the id '21' stands twice"),
    ],
)
def test_lists_that_are_none(here: Path, way: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=rf"^task\.path 'odd_tasks:Listing'{sentence}"):
        build_task(config("odd_tasks:Listing", way=way).task)
    assert here


def test_a_module_that_leaves_the_program(here: Path) -> None:
    (here / "leaving.py").write_text("import sys\nsys.exit('bye')\n")
    with pytest.raises(UsageError, match=r"'leaving:task' cannot be made into a task: SystemExit: bye$"):
        build_task(config("leaving:task").task)


MEANT = """
from dataclasses import dataclass
from pathlib import Path
from rl.tasks.protocol import GeneratedTask, ListedTask, Prompt

Path("imported").touch()

def touch(**_):
    Path("called").touch()

class Nothing:
    __init__ = touch

class Half:
    __init__ = touch
    def verify(self, prompt, response): return True
    training = ()

class Whole:
    def __init__(self, **_): pass
    def verify(self, prompt, response): return True
    def propose(self, rng):
        n = str(rng.randrange(1000))
        return Prompt(id=n, text=n, difficulty="", problem=n)

@dataclass
class Lists:
    training: tuple = (Prompt(id="1", text="1", difficulty="", problem=1),)
    held_out: tuple = ()
    def verify(self, prompt, response): return True

def unsaid(**parameters): touch(); return Whole()
def of_texts(**parameters) -> str: touch(); return Whole()
def perhaps() -> "Whole | None": touch(); return Whole()
def whole() -> Whole: return Whole()
def generated(**parameters) -> "GeneratedTask[int]": return Whole()
def listed() -> ListedTask[int] | Lists: return Lists()
ready = Whole()
"""


@pytest.mark.parametrize("name", ["touch", "Nothing", "Half", "unsaid", "of_texts", "perhaps"])
def test_what_does_not_say_that_it_is_a_task_is_not_called(here: Path, name: str) -> None:
    (here / "meant.py").write_text(MEANT)
    with pytest.raises(
        UsageError, match=rf"^task\.path 'meant:{name}' does not say that it is a task, so it is not call"
    ):
        build_task(config(f"meant:{name}").task)
    assert not (here / "called").exists()


@pytest.mark.parametrize("name", ["Whole", "Lists", "whole", "generated", "listed", "ready"])
def test_what_says_so_is(here: Path, name: str) -> None:
    (here / "meant.py").write_text(MEANT)
    assert build_task(config(f"meant:{name}").task)


def test_code_from_elsewhere_is_not_imported_unless_allowed(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.syspath_prepend(str(elsewhere))
    (elsewhere / "foreign.py").write_text(MEANT)
    (elsewhere / "parcel").mkdir()
    (elsewhere / "parcel" / "__init__.py").write_text(MEANT)
    (elsewhere / "parcel" / "inner.py").write_text(MEANT)
    for path in ("foreign:Whole", "parcel.inner:Whole", "os:system", "sys:exit", "subprocess:run", "torch.hub:load"):
        allow = f"--allow-import {path.partition(':')[0]}"
        sentence = rf"^task\.path '{path}' names a module outside the folder of the start, .*{allow}$"
        with pytest.raises(UsageError, match=sentence):
            build_task(config(path).task)
    assert not (here / "imported").exists()
    monkeypatch.setenv("WEIGHTOPT_ALLOW_IMPORT", "other, parcel")
    assert build_task(config("parcel.inner:Whole").task)
    with pytest.raises(UsageError, match="outside the folder of the start"):
        build_task(config("foreign:Whole").task)
    monkeypatch.setenv("WEIGHTOPT_ALLOW_IMPORT", "os")
    with pytest.raises(UsageError, match=r"'os:system' does not say|no signature found"):
        build_task(config("os:system", command="touch imported-by-os").task)
    assert not (here / "imported-by-os").exists()


def test_a_link_in_the_folder_of_the_start_leads_elsewhere(
    here: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("linked") / "linked_task.py"
    elsewhere.write_text(MEANT)
    (here / "linked_task.py").symlink_to(elsewhere)
    with pytest.raises(UsageError, match="outside the folder of the start"):
        build_task(config("linked_task:Whole").task)


@pytest.mark.slow
def test_a_dry_run_runs_no_program_and_says_what_it_imports(
    here: Path, table_file: Callable[[str, int], Path], start_model: Callable[..., Path], invoke: Callable[..., Any]
) -> None:
    start = start_model("0123456789?", layers=1, hidden_size=16, intermediate_size=16, heads=2, context=32)

    def dry(path: str, parameters: str, *more: str) -> Any:
        (here / "run.toml").write_text(
            f'start_model = "{start}"\n[verifier]\nworkers = 1\n[rollout]\nprompts_per_step = 2\n'
            f'[task]\nname = "import"\npath = "{path}"\nparameters = {{ {parameters} }}\n'
        )
        table = table_file("linear-r", 16)
        return invoke(command.train, "--config", here / "run.toml", "--table", table, "--dry-run", *more)

    refused = dry("os:system", f'command = "touch {here / "pwned"}"')
    assert refused.exit_code == 2
    assert "names a module outside the folder of the start" in refused.output
    allowed = dry("os:system", f'command = "touch {here / "pwned"}"', "--allow-import", "os")
    assert allowed.exit_code == 2
    assert not (here / "pwned").exists()
    (here / "meant.py").write_text(MEANT)
    looked = dry("meant:ready", "", "--set", "task.allow_nonsense=true")
    assert looked.stderr == "running code of meant:ready, if its module is allowed and it is a task\n"
    assert looked.exit_code == 0


def test_the_command_refuses_a_bad_task_and_leaves_no_folder(
    here: Path, table_file: Callable[[str, int], Path], start_model: Callable[..., Path], invoke: Callable[..., Any]
) -> None:
    start = start_model("0123456789?", layers=1, hidden_size=16, intermediate_size=16, heads=2, context=32)
    (here / "run.toml").write_text(
        f'start_model = "{start}"\n'
        '[task]\nname = "import"\npath = "odd_tasks:Proposing"\nparameters = { way = "number" }\n'
    )
    arguments = ("--config", here / "run.toml", "--table", table_file("linear-r", 16), "--output", here / "out")
    result = invoke(command.train, *arguments)
    assert result.exit_code == 2
    assert re.fullmatch(
        r"weightopt: task\.path 'odd_tasks:Proposing': propose gave a prompt whose id is \d+: .*\n", result.output
    )
    assert not (here / "out").exists()


@pytest.mark.slow
def test_the_example_of_the_documentation(here: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    (here / "doubling.py").write_text("\n".join(line.removeprefix("  ") for line in block.split("\n")))
    settings = config("doubling:Doubling", largest=9999)
    task = build_task(settings.task)
    assert isinstance(task, GeneratedTask)
    measured, trained = held_out_prompts(task, count=20, seed=0), training_prompts(task, count=20, seed=0)
    assert not {prompt.id for prompt in measured} & {prompt.id for prompt in trained}
    prompt = task.propose(Random(0))
    number = int(prompt.id)
    assert (prompt.text, prompt.difficulty) == (f"Twice {number} is ", f"{len(prompt.id)} digits")
    with open_verifier(settings) as pool:
        assert isinstance(pool, VerifierPool)
        judged = pool.judge([(prompt, answer) for answer in (f" {2 * number}\n", "0", "many")])
    assert [each.verdict for each in judged] == [Verdict.RIGHT, Verdict.WRONG, Verdict.UNREADABLE]
