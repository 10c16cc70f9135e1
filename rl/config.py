"""What a run is: TOML written by hand, read into frozen records.

A key that is not known here is an error that names the nearest key there is. The defaults are the settings that were
measured (see the files in ``configs/``); a record written beside a run, by `Config.to_json`, holds every value used.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rl.errors import UsageError

Frequency = Annotated[float, Field(ge=1e-6, le=1e6)]
Operator = Literal["+", "-", "*", "/"]
ANY_OPERATOR: Mapping[Operator, float] = dict.fromkeys(get_args(Operator), 1.0)


class Section(BaseModel):
    """A part of the configuration: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AdditionConfig(Section):
    """``[task]`` with ``name = "addition"``; see `rl.tasks.addition.Addition`."""

    name: Literal["addition"]
    digits: Annotated[Mapping[Annotated[int, Field(ge=1, le=12)], Frequency], Field(min_length=1)]


class CountdownConfig(Section):
    """``[task]`` with ``name = "countdown"``; see `rl.tasks.countdown.Countdown`."""

    name: Literal["countdown"]
    numbers: Annotated[Mapping[Annotated[int, Field(ge=2, le=6)], Frequency], Field(min_length=1)]
    largest_number: Annotated[int, Field(ge=4, le=1000)]
    largest_target: Annotated[int, Field(ge=10, le=100_000)]
    operators: Annotated[Mapping[Operator, Frequency], Field(min_length=1)] = ANY_OPERATOR
    habits: Annotated[Mapping[Operator, Frequency], Field(min_length=1)] = ANY_OPERATOR


TASK_SECTIONS: Mapping[str, type[Section]] = {"addition": AdditionConfig, "countdown": CountdownConfig}


class ModelConfig(Section):
    """``[model]``: the shape of a Llama made from nothing; not read when a start model is given.

    ``initializer_range`` is the standard deviation of the initial weights. The usual 0.02 suits widths of some
    thousands; at width 128 a model started at 0.06 reaches the format in half the steps. Two wide layers learn as much
    a step as four narrower ones with as many parameters, in three quarters of the time.
    """

    layers: Annotated[int, Field(ge=1, le=64)] = 2
    hidden_size: Annotated[int, Field(ge=8, le=8192)] = 160
    intermediate_size: Annotated[int, Field(ge=8, le=32768)] = 640
    heads: Annotated[int, Field(ge=1, le=128)] = 4
    context: Annotated[int, Field(ge=8, le=131072)] = 64
    initializer_range: Annotated[float, Field(gt=0, lt=1)] = 0.06

    @model_validator(mode="after")
    def _heads_divide(self) -> "ModelConfig":
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size must be a multiple of 2 * heads = {2 * self.heads}")
        return self


class SupervisedConfig(Section):
    """``[supervised]``: the phase that teaches a new model the format; not read when a start model is given.

    Every ``check_every`` steps success at temperature 1 is measured on the held-out prompts; the phase ends as soon as
    it reaches ``stop_at``, at the latest after ``steps``. Among the demonstrations, ``solved_share`` are correct.
    """

    steps: Annotated[int, Field(ge=1)] = 400
    batch_size: Annotated[int, Field(ge=1)] = 256
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3e-3
    solved_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    check_every: Annotated[int, Field(ge=1)] = 10
    stop_at: Annotated[float, Field(gt=0, le=1)] = 0.08


class RolloutConfig(Section):
    """``[rollout]``: what is sampled in a step.

    With ``dynamic_sampling`` further prompts are drawn until ``prompts_per_step`` groups hold both right and wrong
    responses, at most ``over_generation_limit`` times as many; only those groups are trained on, all are paid for.
    """

    prompts_per_step: Annotated[int, Field(ge=1)] = 64
    group_size: Annotated[int, Field(ge=2, le=65536)] = 16
    temperature: Annotated[float, Field(ge=0.01, le=10)] = 1.0
    max_new_tokens: Annotated[int, Field(ge=1)] = 16
    dynamic_sampling: bool = False
    over_generation_limit: Annotated[int, Field(ge=1, le=10_000)] = 8


class LaterTable(Section):
    """An entry of ``later_tables``: from step ``from_step`` on, ``table`` takes the place of the table before it."""

    from_step: Annotated[int, Field(ge=2)]
    table: Path


class WeightingConfig(Section):
    """``[weighting]``: how the table is read; see docs/training.md for what each choice does to the weighting.

    ``estimate`` is the success probability at which it is read: that of this group, that of the other responses of the
    group, or the mean of a Beta posterior over the prompt's earlier visits. The posterior's prior is
    ``prior_successes`` and ``prior_failures``, and what it has seen counts ``visit_discount`` times as much after each
    further visit. ``all_wrong`` is the rule for groups without a success: the table's advantage, none, none up to step
    ``all_wrong_after``, or from there in equal parts up to the table's at step ``all_wrong_full_at``. ``normaliser`` is
    what a response's gradient is divided by.
    """

    estimate: Literal["group", "leave-one-out", "beta"] = "group"
    prior_successes: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    prior_failures: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    visit_discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    all_wrong: Literal["table", "off", "hold", "ramp"] = "table"
    all_wrong_after: Annotated[int, Field(ge=0)] | None = None
    all_wrong_full_at: Annotated[int, Field(ge=1)] | None = None
    normaliser: Literal["step", "response", "group"] = "step"

    @model_validator(mode="after")
    def _rule_has_its_steps(self) -> "WeightingConfig":
        if (self.all_wrong_after is not None) != (self.all_wrong in ("hold", "ramp")):
            raise ValueError("all_wrong_after goes with all_wrong = 'hold' or 'ramp', and they with it")
        if (self.all_wrong_full_at is not None) != (self.all_wrong == "ramp"):
            raise ValueError("all_wrong_full_at goes with all_wrong = 'ramp', and that with it")
        if (
            self.all_wrong_after is not None
            and self.all_wrong_full_at is not None
            and self.all_wrong_full_at <= self.all_wrong_after
        ):
            raise ValueError("all_wrong_full_at must be greater than all_wrong_after")
        return self


class OptimizerConfig(Section):
    """``[optimizer]``: AdamW, one update a step.

    The gradient is clipped to ``max_grad_norm`` if that is given. ``tokens_per_micro_batch`` bounds the memory of a
    forward pass and changes no result beyond rounding. The learning rate rises in equal parts over ``warmup_steps``
    steps; with ``cosine_until`` it then falls along half a cosine to ``final_share`` of itself at that step and stays.
    The horizon is a step of its own and not the end of the run, so a run that is prolonged keeps its past.
    """

    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 5e-4
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    tokens_per_micro_batch: Annotated[int, Field(ge=1)] = 8192
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    cosine_until: Annotated[int, Field(ge=1)] | None = None
    final_share: Annotated[float, Field(ge=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _warm_before_cool(self) -> "OptimizerConfig":
        if self.cosine_until is not None and self.cosine_until <= self.warmup_steps:
            raise ValueError("cosine_until must be greater than warmup_steps")
        return self


class TrainingConfig(Section):
    """``[training]``: how long, and how often something is kept or measured.

    The last ``keep_checkpoints`` checkpoints stay on disk. ``rollout_share`` of the groups drawn are written to
    ``rollouts.jsonl``, all their responses.
    """

    steps: Annotated[int, Field(ge=1)] = 200
    evaluate_every: Annotated[int, Field(ge=1)] = 20
    checkpoint_every: Annotated[int, Field(ge=1)] = 20
    keep_checkpoints: Annotated[int, Field(ge=1)] = 1
    rollout_share: Annotated[float, Field(ge=0, le=1)] = 0.0


class EvaluationConfig(Section):
    """``[evaluation]``: success on held-out prompts; ``seed`` picks the prompts and resamples them for the interval.

    ``pass_at`` lists the k of pass@k, each at most ``samples``. With ``greedy`` success of the most probable response
    is measured too. With ``keep_best`` the model with the highest success so far is kept.
    """

    prompts: Annotated[int, Field(ge=2)] = 128
    samples: Annotated[int, Field(ge=1)] = 4
    temperature: Annotated[float, Field(ge=0, le=10)] = 1.0
    seed: Annotated[int, Field(ge=0)] = 0
    pass_at: tuple[Annotated[int, Field(ge=1)], ...] = ()
    greedy: bool = False
    keep_best: bool = True

    @model_validator(mode="after")
    def _enough_samples(self) -> "EvaluationConfig":
        if self.pass_at and max(self.pass_at) > self.samples:
            raise ValueError(f"pass_at asks for {max(self.pass_at)} samples to a prompt, and samples is {self.samples}")
        if self.pass_at and self.temperature == 0:
            raise ValueError("pass_at needs a temperature above 0: at 0 all samples to a prompt are the same")
        return self


class Config(Section):
    """A whole run.

    ``table`` is the file of a weight table, a curve or one for groups of ``rollout.group_size``; ``later_tables`` take
    its place one after the other, each from a step on. ``start_model`` is a folder to start from; without one a new
    model is made from ``[model]`` and ``[supervised]`` first. ``threads`` is the number of CPU threads: results are
    repeatable bit for bit only at the same number.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    table: Path | None = None
    later_tables: tuple[LaterTable, ...] = ()
    start_model: Path | None = None
    task: Annotated[AdditionConfig | CountdownConfig, Field(discriminator="name")]
    model: ModelConfig = ModelConfig()
    supervised: SupervisedConfig = SupervisedConfig()
    rollout: RolloutConfig = RolloutConfig()
    weighting: WeightingConfig = WeightingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @field_validator("later_tables")
    @classmethod
    def _in_order(cls, value: tuple[LaterTable, ...]) -> tuple[LaterTable, ...]:
        if any(second.from_step <= first.from_step for first, second in pairwise(value)):
            raise ValueError("each from_step must be greater than the one before it")
        return value

    @model_validator(mode="after")
    def _rule_meets_its_groups(self) -> "Config":
        if self.rollout.dynamic_sampling and self.weighting.all_wrong in ("hold", "ramp"):
            raise ValueError(
                f"weighting.all_wrong = {self.weighting.all_wrong!r} would never act with rollout.dynamic_sampling, "
                "which drops all-wrong groups"
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """Every value, as JSON types."""
        return self.model_dump(mode="json")


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file.

    Parameters
    ----------
    path
        TOML file.
    overrides
        ``"section.key=value"`` each, applied in order; the value is read as TOML, or as a string where it is not TOML.

    Raises
    ------
    UsageError
        If the file cannot be read, is not TOML, or holds an unknown key or a value out of range.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"config {str(path)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"config {str(path)!r} is not TOML: {error}") from error
    for override in overrides:
        _override(document, override)
    return parse_config(document)


def parse_config(document: Mapping[str, Any]) -> Config:
    """Check a configuration that is already a dictionary; raises like `load_config`."""
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise UsageError(_explain(error, document)) from error


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Where two dictionaries of JSON values differ: dotted key and both values (None where absent), sorted by key."""
    left, right = dict(_leaves(first)), dict(_leaves(second))
    keys = sorted(left.keys() | right.keys())
    return [(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _override(document: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise UsageError(f"--set {override!r} is not of the form key=value or section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = key.split(".")
    for section in sections:
        document = document.setdefault(section, {})
        if not isinstance(document, dict):
            raise UsageError(f"--set {override!r}: {section!r} is not a section")
    document[last] = value


def _explain(error: ValidationError, document: Mapping[str, Any]) -> str:
    """One sentence for the first thing that is wrong."""
    errors = error.errors(include_url=False)
    # A key that is missing may stand there misspelled, and then that is the mistake.
    first = min(errors[:1] + [each for each in errors if each["type"] == "extra_forbidden"], key=_is_missing)
    # The discriminator of a union stands in the path as if it were a key; "[key]" marks a bad key of a mapping.
    location = [str(part) for part in first["loc"] if part != "[key]"]
    if location[:1] == ["task"] and len(location) > 1 and location[1] == document.get("task", {}).get("name"):
        del location[1]
    key = ".".join(location)
    kind = first["type"]
    if kind == "extra_forbidden":
        *sections, last = location
        known = _known_keys(sections, document)
        near = get_close_matches(last, known, n=1, cutoff=0.0)
        hint = ".".join([*sections, *near])
        return f"config key {key!r} is unknown; the nearest is {hint!r} (known here: {', '.join(sorted(known))})"
    if kind == "missing":
        return f"config key {key!r} is missing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        names = ", ".join(repr(name) for name in TASK_SECTIONS)
        found = document["task"].get("name") if isinstance(document["task"], Mapping) else document["task"]
        return f"config key 'task.name' is {found!r}; it must be one of {names}"
    message = first["msg"].removeprefix("Value error, ")
    if not location:
        return f"config: {message}"
    return f"config key {key!r} is {first['input']!r}: {message[0].lower()}{message[1:]}"


def _is_missing(error: Mapping[str, Any]) -> bool:
    return error["type"] == "missing"


def _known_keys(sections: Sequence[str], document: Mapping[str, Any]) -> list[str]:
    model: Any = Config
    for section in sections:
        if section == "task":
            model = TASK_SECTIONS[document["task"]["name"]]
        elif section.isdigit():  # an entry of a list: of the type of all its entries
            (model, *_) = get_args(model)
        else:
            model = model.model_fields[section].annotation
    return list(model.model_fields)
