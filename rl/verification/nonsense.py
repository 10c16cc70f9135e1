"""Whether a scorer that is not ours rewards nonsense, asked before a run begins.

A model finds a hole in a scorer sooner than it learns the task. Two of reasoning-gym's give full marks to any text, or
to "nan": `bool` of a text is true, and a comparison with a NaN lets everything through. So each foreign scorer is shown
answers that are right for no question, in every form in which an answer is looked for, on a few prompts.
"""

from collections.abc import Callable, Sequence
from typing import Any

from rl.errors import UsageError
from rl.tasks.config import TaskConfig
from rl.tasks.protocol import Prompt
from rl.tasks.registry import foreign_prompts
from rl.verification.verdict import Judged, Verdict

PROMPTS = 8
NONSENSE = ("I do not know", "nan", "nan+nanj", "[nan, nan]", "?", "...", "lorem ipsum dolor sit amet", "\\undefined")

Judge = Callable[[Sequence[tuple[Prompt[Any], str]]], Sequence[Judged]]


def refuse_nonsense(config: TaskConfig, judge: Judge) -> None:
    """Show the task's scorer nonsense, unless ``task.allow_nonsense`` is set or it is ours.

    Parameters
    ----------
    judge
        Judges responses within limits, as `rl.verification.pool.VerifierPool.judge` does. A scorer that is too slow for
        the first answer is asked no more.

    Raises
    ------
    UsageError
        If a nonsense answer is right for some prompt.
    """
    for prompt in foreign_prompts(config, PROMPTS):
        shown = [(prompt, text) for answer in NONSENSE for text in (answer, in_all_forms(answer))]
        if judge(shown[:1])[0].verdict is Verdict.TIMED_OUT:
            return
        for (_, text), judged in zip(shown, judge(shown), strict=True):
            if judged.verdict is Verdict.RIGHT:
                raise UsageError(
                    f"the scorer of task {config.name!r} rewards nonsense: to {_short(prompt.text)} it calls "
                    f"{_short(text)} right; mend or replace it, or set task.allow_nonsense = true if that is meant"
                )


def in_all_forms(answer: str) -> str:
    """An answer in every form that `rl.tasks.extraction` knows."""
    return f"{answer}\n<answer>{answer}</answer>\n\\boxed{{{answer}}}\n#### {answer}"


def _short(text: str) -> str:
    first = " ".join(text.split())
    return repr(first if len(first) <= 60 else first[:57] + "...")
