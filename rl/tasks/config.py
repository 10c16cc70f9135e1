"""Which tasks there are, and what their sections have in common; each section stands in the module of its task."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field

from weightopt.settings import Number, Section

# Name to the section of that name, imported when the name is used.
TASKS: Mapping[str, str] = {
    "addition": "rl.tasks.addition:AdditionConfig",
    "countdown": "rl.tasks.countdown:CountdownConfig",
    "countdown-text": "rl.tasks.countdown_text:CountdownTextConfig",
    "gsm8k": "rl.tasks.math_file:MathConfig",
    "math": "rl.tasks.math_file:MathConfig",
    "reasoning-gym": "rl.tasks.puzzles:ReasoningGymConfig",
    "import": "rl.tasks.imported:ImportedConfig",
}

Frequency = Annotated[Number, Field(ge=1e-6, le=1e6)]

Operator = Literal["+", "-", "*", "/"]
ANY_OPERATOR: Mapping[Operator, float] = dict.fromkeys(get_args(Operator), 1.0)


class TaskConfig(Section):
    """``[task]``: where prompts come from and how responses are judged."""

    name: str


class TextTaskConfig(TaskConfig):
    """A task for models that know language. With ``chat`` prompts go into the chat template of the start model."""

    chat: bool = False


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
