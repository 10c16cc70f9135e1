"""Which tasks there are, and what their sections of a configuration have in common.

A task is one module: its section stands there, with the packages that it needs, and is the task or builds it. A new one
takes a line in `TASKS` and that module.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field

from weightopt.settings import Number, Section

# Name to the section of that name, imported when the name is used.
TASKS: Mapping[str, str] = {
    "addition": "rl.tasks.addition:Addition",
    "countdown": "rl.tasks.countdown:Countdown",
    "countdown-text": "rl.tasks.countdown_text:CountdownText",
    "letters": "rl.tasks.letters:Letters",
    "gsm8k": "rl.tasks.math_file:MathConfig",
    "math": "rl.tasks.math_file:MathConfig",
    "reasoning-gym": "rl.tasks.puzzles:ReasoningGymConfig",
    "import": "rl.tasks.imported:ImportedConfig",
}


class TaskConfig(Section):
    """``[task]``: where prompts come from and how responses are judged.

    Attributes
    ----------
    in_process
        Whether the verifier is ours and proven to be bounded; any other runs in `rl.verification.pool.VerifierPool`.
    """

    in_process: ClassVar[bool] = False

    name: str
    """The task."""

    def build(self) -> Any:
        """The task, by default the section; else a `Task`, which may need a package or data that is not there."""
        return self

    def verifier(self) -> Any:
        """What judges the responses, a `rl.tasks.protocol.Verifier`; by default the task does."""
        return self.build()

    def data_files(self) -> dict[str, Path]:
        """The files that the problems are read from, by the key that names them."""
        return {}

    def packages(self) -> tuple[str, ...]:
        """Packages, by their names on PyPI, on whose version problems and verdicts depend."""
        return ()


class TextTaskConfig(TaskConfig):
    """A task for models that know language."""

    chat: bool = False
    """Whether prompts go into the chat template of the start model."""


class ForeignTaskConfig(TextTaskConfig):
    """A task whose scorer is somebody else's."""

    allow_nonsense: bool = False
    """Whether a scorer that rewards nonsense such as "I do not know" is taken all the same."""


Frequency = Annotated[Number, Field(ge=1e-6, le=1e6)]

Operator = Literal["+", "-", "*", "/"]
ANY_OPERATOR: Mapping[Operator, float] = dict.fromkeys(get_args(Operator), 1.0)


def _of_json(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, value in parameters.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the value of {name!r} must be made of texts, finite numbers, truth values, lists and tables: they go "
                "to other processes and into run.json"
            ) from error
    return parameters


Parameters = Annotated[Mapping[str, Any], AfterValidator(_of_json)]
NONE: Mapping[str, Any] = {}


def _one_question(template: str) -> str:
    if template.count("{question}") != 1:
        raise ValueError("it must hold {question} exactly once")
    return template


Template = Annotated[str, Field(max_length=100_000), AfterValidator(_one_question)]
