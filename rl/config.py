"""What a run is: TOML written by hand, read into frozen records.

A key that is not known here is an error that names the nearest key there is. The defaults are the settings that were
measured (see the files in ``configs/``); a record written beside a run, by `Config.to_json`, holds every value used.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    field_validator,
    model_validator,
)

from rl.errors import UsageError

# Not Python's: a truth value is no number, and a text is none either.
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict()]

Frequency = Annotated[Number, Field(ge=1e-6, le=1e6)]
# Prompts, responses to one, or updates at a time; and steps. Beyond these a run would not end.
MOST, LAST_STEP = 65536, 10**9

Operator = Literal["+", "-", "*", "/"]
ANY_OPERATOR: Mapping[Operator, float] = dict.fromkeys(get_args(Operator), 1.0)


# Of projects and runs, as all trackers take them.
NAME = (r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "1 to 64 of A-Z, a-z, 0-9, _, . and -, the first a letter or a digit")


def _of_form(pattern: str, words: str) -> AfterValidator:
    """What refuses a text that does not match, and says in words what would."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"it must be {words}")
        return text

    return AfterValidator(check)


Named = TypeVar("Named", str, Path)


def _can_be_opened(name: Named) -> Named:
    if "\0" in str(name):
        raise ValueError("it has an embedded null byte, which no file name has")
    return name


File = Annotated[Path, AfterValidator(_can_be_opened)]


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
    largest_number: Annotated[Integer, Field(ge=4, le=1000)]
    largest_target: Annotated[Integer, Field(ge=10, le=100_000)]
    operators: Annotated[Mapping[Operator, Frequency], Field(min_length=1)] = ANY_OPERATOR
    habits: Annotated[Mapping[Operator, Frequency], Field(min_length=1)] = ANY_OPERATOR


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


class TextTaskConfig(Section):
    """A task for models that know language. With ``chat`` prompts go into the chat template of the start model."""

    chat: bool = False


class CountdownTextConfig(TextTaskConfig):
    """``[task]`` with ``name = "countdown-text"``; see `rl.tasks.countdown_text.CountdownText`.

    The defaults are TinyZero's three and four numbers. With ``examples`` prompts are solved problems with an open last
    line, for which ``rollout.stop = ["\\n"]`` saves tokens.
    """

    name: Literal["countdown-text"]
    numbers: Annotated[Mapping[Annotated[int, Field(ge=2, le=6)], Frequency], Field(min_length=1)] = {3: 1.0, 4: 1.0}
    largest_number: Annotated[Integer, Field(ge=4, le=1000)] = 99
    largest_target: Annotated[Integer, Field(ge=10, le=100_000)] = 100
    operators: Annotated[Mapping[Operator, Frequency], Field(min_length=1)] = ANY_OPERATOR
    examples: Annotated[Integer, Field(ge=0, le=16)] = 0

    @model_validator(mode="after")
    def _one_manner(self) -> "CountdownTextConfig":
        if self.examples and self.chat:
            raise ValueError("examples are a text to be continued and chat is a conversation: set one of them")
        return self


Template = Annotated[str, Field(max_length=100_000)]
Source = Annotated[str, Field(min_length=1), AfterValidator(_can_be_opened)]
AnswerForm = Literal["boxed", "hashes", "tags", "line", "whole"]


def _one_question(template: str) -> str:
    if template.count("{question}") != 1:
        raise ValueError("it must hold {question} exactly once")
    return template


class MathConfig(TextTaskConfig):
    """``[task]`` with ``name = "gsm8k"`` or ``"math"``: problems from a file, judged by math-verify.

    ``train`` and ``held_out`` are JSON-lines or parquet files, or names of hub data sets (then with ``subset``,
    ``train_split`` and ``held_out_split``). Without a source of held-out problems one in eight is held out. Columns and
    ``reference``, where a solution gives its answer, follow the published files of the name: "hashes" is after
    ``####``, "boxed" in ``\\boxed{}``, "whole" all of it. ``answer`` is where a response must give it. The text of
    a prompt is ``template`` with the question in the place of ``{question}``.
    """

    name: Literal["gsm8k", "math"]
    train: Source
    held_out: Source | None = None
    subset: str | None = None
    train_split: Annotated[str, Field(min_length=1)] = "train"
    held_out_split: Annotated[str, Field(min_length=1)] | None = None
    question_column: Annotated[str, Field(min_length=1)] = "question"
    answer_column: Annotated[str, Field(min_length=1)] = "answer"
    difficulty_column: Annotated[str, Field(min_length=1)] | None = None
    reference: Literal["hashes", "boxed", "whole"] = "hashes"
    answer: AnswerForm = "boxed"
    template: Annotated[Template, AfterValidator(_one_question)] = (
        "{question}\n\nThink step by step, and give the final answer within \\boxed{}.\n"
    )

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, document: Any) -> Any:
        """The columns of MATH are not those of GSM8K."""
        if isinstance(document, Mapping) and document.get("name") == "math":
            return {"question_column": "problem", "answer_column": "solution", "reference": "boxed", **document}
        return document


class ReasoningGymConfig(TextTaskConfig):
    """``[task]`` with ``name = "reasoning-gym"``: the data set ``dataset`` of that library with its ``parameters``.

    An answer is right if its score is at least ``threshold``. With ``problems`` so many are made when the run starts
    and drawn from ever after, which slow generators need; without, every prompt is new. ``seed`` is the data set's.
    ``difficulty_key`` names the entry of a puzzle's metadata that is its stratum. ``answer`` and ``template`` are as
    for ``"math"``.
    """

    name: Literal["reasoning-gym"]
    dataset: Annotated[str, Field(min_length=1)]
    parameters: Parameters = {}
    problems: Annotated[Integer, Field(ge=16, le=10_000_000)] | None = None
    seed: Annotated[Integer, Field(ge=0, lt=2**31)] = 0
    threshold: Annotated[Number, Field(gt=0, le=1)] = 1.0
    difficulty_key: Annotated[str, Field(min_length=1)] | None = None
    answer: AnswerForm = "tags"
    template: Annotated[Template, AfterValidator(_one_question)] = (
        "{question}\n\nThink step by step, and give the final answer alone between <answer> and </answer>.\n"
    )


class ImportedConfig(TextTaskConfig):
    """``[task]`` with ``name = "import"``: the task at ``path``, ``"module:attribute"``; see `rl.tasks.imported`.

    If the attribute can be called, it is, with ``parameters``.
    """

    name: Literal["import"]
    path: Annotated[str, _of_form(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", "module:attribute")]
    parameters: Parameters = {}


TaskConfig = AdditionConfig | CountdownConfig | CountdownTextConfig | MathConfig | ReasoningGymConfig | ImportedConfig

TASK_SECTIONS: Mapping[str, type[Section]] = {
    "addition": AdditionConfig,
    "countdown": CountdownConfig,
    "countdown-text": CountdownTextConfig,
    "gsm8k": MathConfig,
    "math": MathConfig,
    "reasoning-gym": ReasoningGymConfig,
    "import": ImportedConfig,
}


class VerifierConfig(Section):
    """``[verifier]``: the processes that judge responses where the verifier is not ours; see `rl.verification.pool`.

    There are ``workers`` of them, by default as many as cores, at most 8. An answer may take ``seconds_per_answer`` of
    computing and ``memory_mib`` of memory beyond what the verifier takes itself. ``sealed`` verifiers can neither write
    nor start anything; a task of your own whose verifier must can do without.
    """

    workers: Annotated[Integer, Field(ge=1, le=1024)] | None = None
    seconds_per_answer: Annotated[Number, Field(ge=0.01, le=3600)] = 5.0
    memory_mib: Annotated[Integer, Field(ge=16, le=2**20)] = 1024
    sealed: bool = True


class ModelConfig(Section):
    """``[model]``: the shape of a Llama made from nothing; not read when a start model is given.

    ``initializer_range`` is the standard deviation of the initial weights. The usual 0.02 suits widths of some
    thousands; at width 128 a model started at 0.06 reaches the format in half the steps. Two wide layers learn as much
    a step as four narrower ones with as many parameters, in three quarters of the time.
    """

    layers: Annotated[Integer, Field(ge=1, le=64)] = 2
    hidden_size: Annotated[Integer, Field(ge=8, le=8192)] = 160
    intermediate_size: Annotated[Integer, Field(ge=8, le=32768)] = 640
    heads: Annotated[Integer, Field(ge=1, le=128)] = 4
    context: Annotated[Integer, Field(ge=8, le=131072)] = 64
    initializer_range: Annotated[Number, Field(gt=0, lt=1)] = 0.06

    @model_validator(mode="after")
    def _heads_divide(self) -> "ModelConfig":
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size must be a multiple of 2 * heads = {2 * self.heads}")
        return self


class PolicyConfig(Section):
    """``[policy]``: how the trained model is held and computed.

    ``precision = "bf16"`` computes in bfloat16 what torch's autocast does, from weights that stay in float32.
    ``gradient_checkpointing`` computes the layers of a backward pass again instead of keeping what they held.
    ``logits_at_once`` bounds how many logits (tokens times vocabulary) exist at a time while learning: more are
    computed piece by piece, and again in the backward pass; "auto" is 2^23 on a CPU, where larger pieces of memory are
    given back and asked for again, and 2^27 on a GPU (not measured there). ``attention`` is the
    implementation in transformers: "auto" is "eager" on a CPU, where it is the faster for sequences of a few dozen
    tokens, and "sdpa" elsewhere.
    """

    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    logits_at_once: Literal["auto"] | Annotated[Integer, Field(ge=1, le=2**40)] = "auto"
    attention: Literal["auto", "eager", "sdpa"] = "auto"


class LoraConfig(Section):
    """``[lora]``: with ``rank`` above 0 only an adapter of that rank is trained, W + (alpha/rank) B A for each weight.

    ``alpha`` is by default ``2 * rank``. ``targets`` are the names of the layers that get an adapter, e.g.
    ``["q_proj", "v_proj"]``, or "all-linear": all but the output layer.
    """

    rank: Annotated[Integer, Field(ge=0, le=4096)] = 0
    alpha: Annotated[Number, Field(gt=0, le=1e6)] | None = None
    targets: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"

    @property
    def scale(self) -> float:
        """The alpha that holds."""
        return 2.0 * self.rank if self.alpha is None else self.alpha

    @model_validator(mode="after")
    def _keys_of_an_adapter(self) -> "LoraConfig":
        if not self.rank and (self.alpha is not None or self.targets != "all-linear"):
            raise ValueError("alpha and targets go with a rank above 0")
        return self


class SupervisedConfig(Section):
    """``[supervised]``: the phase that teaches a new model the format; not read when a start model is given.

    Every ``check_every`` steps success at temperature 1 is measured on the held-out prompts; the phase ends as soon as
    it reaches ``stop_at``, at the latest after ``steps``. Among the demonstrations, ``solved_share`` are correct.
    """

    steps: Annotated[Integer, Field(ge=1, le=LAST_STEP)] = 400
    batch_size: Annotated[Integer, Field(ge=1, le=MOST)] = 256
    learning_rate: Annotated[Number, Field(gt=0, lt=1)] = 3e-3
    solved_share: Annotated[Number, Field(ge=0, le=1)] = 0.0
    check_every: Annotated[Integer, Field(ge=1)] = 10
    stop_at: Annotated[Number, Field(gt=0, le=1)] = 0.08


class RolloutConfig(Section):
    """``[rollout]``: what is sampled in a step.

    With ``dynamic_sampling`` further prompts are drawn until ``prompts_per_step`` groups hold both right and wrong
    responses, at most ``over_generation_limit`` times as many; only those groups are trained on, all are paid for.
    A response ends at its end token or as soon as one of the strings ``stop`` stands in it; see
    `rl.samplers.rollout.Sampler`.
    """

    prompts_per_step: Annotated[Integer, Field(ge=1, le=MOST)] = 64
    group_size: Annotated[Integer, Field(ge=2, le=MOST)] = 16
    temperature: Annotated[Number, Field(ge=0.01, le=10)] = 1.0
    max_new_tokens: Annotated[Integer, Field(ge=1, le=2**20)] = 16
    stop: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = ()
    dynamic_sampling: bool = False
    over_generation_limit: Annotated[Integer, Field(ge=1, le=10_000)] = 8


class SamplerConfig(Section):
    """``[sampler]``: what generates the responses, and what is done about its being another program than the trainer.

    ``"torch"`` is the trainer's own forward pass; ``"vllm"`` is an engine in the same process with weights of its own.
    Of the engine: ``precision``, by default that of ``[policy]``; ``kv_cache_gib``, the memory for keys and values;
    ``max_sequences``, how many responses it works on at a time; ``context``, the longest prompt with its response, by
    default what the model can do; ``sleep``, whether it gives its GPU memory away while the trainer learns. After
    each hand-over of weights it must agree with the trainer within ``sync_tolerance`` nats, by default 1e-4, or 0.5
    where one of the two computes in bfloat16. ``importance_sampling`` multiplies the gradient of each token by the
    ratio of the trainer's to the sampler's probability, at most ``importance_cap``: by default with the engine, where
    the ratio is not 1.
    """

    backend: Literal["torch", "vllm"] = "torch"
    precision: Literal["fp32", "bf16"] | None = None
    kv_cache_gib: Annotated[Number, Field(gt=0, le=4096)] = 1.0
    max_sequences: Annotated[Integer, Field(ge=1, le=65536)] = 256
    context: Annotated[Integer, Field(ge=8, le=10_000_000)] | None = None
    sleep: bool = False
    sync_tolerance: Annotated[Number, Field(gt=0, le=100)] | None = None
    importance_sampling: bool | None = None
    importance_cap: Annotated[Number, Field(ge=1, le=1e6)] = 2.0

    @property
    def cap(self) -> float | None:
        """Cap of the importance weights, None without importance sampling."""
        wanted = self.backend == "vllm" if self.importance_sampling is None else self.importance_sampling
        return self.importance_cap if wanted else None

    @model_validator(mode="after")
    def _keys_of_the_engine(self) -> "SamplerConfig":
        ours = {"backend", "importance_sampling", "importance_cap"}
        others = [
            name
            for name, field in type(self).model_fields.items()
            if name not in ours and getattr(self, name) != field.default
        ]
        if self.backend == "torch" and others:
            raise ValueError(f"{others[0]} goes with backend = 'vllm'")
        if self.cap is None and self.importance_cap != type(self).model_fields["importance_cap"].default:
            raise ValueError("importance_cap goes with importance_sampling = true or backend = 'vllm'")
        return self


class LaterTable(Section):
    """An entry of ``later_tables``: from step ``from_step`` on, ``table`` takes the place of the table before it."""

    from_step: Annotated[Integer, Field(ge=2)]
    table: File


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
    prior_successes: Annotated[Number, Field(ge=1e-6, le=1e6)] = 1.0
    prior_failures: Annotated[Number, Field(ge=1e-6, le=1e6)] = 1.0
    visit_discount: Annotated[Number, Field(gt=0, le=1)] = 1.0
    all_wrong: Literal["table", "off", "hold", "ramp"] = "table"
    all_wrong_after: Annotated[Integer, Field(ge=0)] | None = None
    all_wrong_full_at: Annotated[Integer, Field(ge=1)] | None = None
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
    """``[optimizer]``: AdamW, and how many updates a step makes.

    The groups of a step are shared out among ``mini_batches`` updates, and all are gone through ``epochs`` times. From
    the second update on the gradient of a token is multiplied by the ratio of its probability to that before the first
    one; ``clip_low`` and ``clip_high`` are PPO's bounds 1 - ``clip_low`` and 1 + ``clip_high`` on it. The learning
    rate is that of the step.

    The gradient is clipped to ``max_grad_norm`` if that is given. ``tokens_per_micro_batch`` bounds the memory of a
    forward pass and changes no result beyond rounding. The learning rate rises in equal parts over ``warmup_steps``
    steps; with ``cosine_until`` it then falls along half a cosine to ``final_share`` of itself at that step and stays.
    The horizon is a step of its own and not the end of the run, so a run that is prolonged keeps its past.
    """

    learning_rate: Annotated[Number, Field(gt=0, lt=1)] = 5e-4
    betas: tuple[Annotated[Number, Field(ge=0, lt=1)], Annotated[Number, Field(ge=0, lt=1)]] = (0.9, 0.95)
    epsilon: Annotated[Number, Field(gt=0, lt=1)] = 1e-8
    weight_decay: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    max_grad_norm: Annotated[Number, Field(gt=0, allow_inf_nan=False)] | None = None
    tokens_per_micro_batch: Annotated[Integer, Field(ge=1, le=2**30)] = 8192
    warmup_steps: Annotated[Integer, Field(ge=0)] = 0
    cosine_until: Annotated[Integer, Field(ge=1)] | None = None
    final_share: Annotated[Number, Field(ge=0, le=1)] = 0.1
    mini_batches: Annotated[Integer, Field(ge=1, le=MOST)] = 1
    epochs: Annotated[Integer, Field(ge=1, le=1000)] = 1
    clip_low: Annotated[Number, Field(gt=0, le=1)] | None = None
    clip_high: Annotated[Number, Field(gt=0, le=1e6)] | None = None

    @property
    def updates(self) -> int:
        """Updates in a step."""
        return self.mini_batches * self.epochs

    @model_validator(mode="after")
    def _warm_before_cool(self) -> "OptimizerConfig":
        if self.cosine_until is not None and self.cosine_until <= self.warmup_steps:
            raise ValueError("cosine_until must be greater than warmup_steps")
        return self

    @model_validator(mode="after")
    def _ratios_to_clip(self) -> "OptimizerConfig":
        if self.updates == 1 and (self.clip_low is not None or self.clip_high is not None):
            raise ValueError(
                "clip_low and clip_high go with mini_batches or epochs above 1: with one update a step all ratios are 1"
            )
        return self


class KlConfig(Section):
    """``[kl]``: a penalty on the divergence from a reference, ``coefficient`` times KL(policy ‖ reference).

    ``reference`` is a folder or the hub name of a model, by default the start model. ``estimator`` is "score", whose
    gradient is that of the divergence of whole responses, or "k3", that of other trainers; see `rl.learning.kl`.
    """

    coefficient: Annotated[Number, Field(ge=0, le=1e6)] = 0.0
    reference: File | None = None
    estimator: Literal["score", "k3"] = "score"

    @model_validator(mode="after")
    def _keys_of_a_penalty(self) -> "KlConfig":
        if not self.coefficient and (self.reference is not None or self.estimator != "score"):
            raise ValueError("reference and estimator go with a coefficient above 0")
        return self


class TrainingConfig(Section):
    """``[training]``: how long, and how often something is kept or measured.

    The last ``keep_checkpoints`` checkpoints stay on disk. ``rollout_share`` of the groups drawn are written to
    ``rollouts.jsonl``, all their responses.
    """

    steps: Annotated[Integer, Field(ge=1, le=LAST_STEP)] = 200
    evaluate_every: Annotated[Integer, Field(ge=1)] = 20
    checkpoint_every: Annotated[Integer, Field(ge=1)] = 20
    keep_checkpoints: Annotated[Integer, Field(ge=1)] = 1
    rollout_share: Annotated[Number, Field(ge=0, le=1)] = 0.0


class EvaluationConfig(Section):
    """``[evaluation]``: success on held-out prompts; ``seed`` picks the prompts and resamples them for the interval.

    ``pass_at`` lists the k of pass@k, each at most ``samples``. With ``greedy`` success of the most probable response
    is measured too. With ``keep_best`` the model with the highest success so far is kept.
    """

    prompts: Annotated[Integer, Field(ge=2, le=MOST)] = 128
    samples: Annotated[Integer, Field(ge=1, le=MOST)] = 4
    temperature: Annotated[Number, Field(ge=0, le=10)] = 1.0
    seed: Annotated[Integer, Field(ge=0)] = 0
    pass_at: tuple[Annotated[Integer, Field(ge=1)], ...] = ()
    greedy: bool = False
    keep_best: bool = True

    @model_validator(mode="after")
    def _enough_samples(self) -> "EvaluationConfig":
        if self.pass_at and max(self.pass_at) > self.samples:
            raise ValueError(f"pass_at asks for {max(self.pass_at)} samples to a prompt, and samples is {self.samples}")
        if self.pass_at and self.temperature == 0:
            raise ValueError("pass_at needs a temperature above 0: at 0 all samples to a prompt are the same")
        return self


class TrackingConfig(Section):
    """``[tracking]``: where the run's numbers are shown besides its own files; see `rl.trackers`.

    ``trackers`` are any of "tensorboard", "trackio" and "wandb", by default none. They know the run as ``run``, by
    default the name of its folder, of ``project``. ``wandb_mode = "online"`` uploads as it goes.
    """

    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    project: Annotated[str, _of_form(*NAME)] = "weightopt"
    run: Annotated[str, _of_form(*NAME)] | None = None
    wandb_mode: Literal["offline", "online"] = "offline"

    @field_validator("trackers")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("it names a tracker twice")
        return value


class Config(Section):
    """A whole run.

    ``table`` is the file of a weight table, a curve or one for groups of ``rollout.group_size``; ``later_tables`` take
    its place one after the other, each from a step on. ``start_model`` is a folder to start from, or ``owner/name`` of
    a model on the Hugging Face hub where there is no such folder; without one a new model is made from ``[model]`` and
    ``[supervised]`` first. ``threads`` is the number of CPU threads: results are repeatable bit for bit only at the
    same number. ``device`` is where the model is: "auto" is the GPU if there is one.
    """

    seed: Annotated[Integer, Field(ge=0)] = 0
    threads: Annotated[Integer, Field(ge=1, le=1024)] = 1
    device: Annotated[str, _of_form(r"auto|cpu|cuda(:\d{1,3})?", "auto, cpu, cuda or cuda:N")] = "auto"
    table: File | None = None
    later_tables: tuple[LaterTable, ...] = ()
    start_model: File | None = None
    task: Annotated[TaskConfig, Field(discriminator="name")]
    verifier: VerifierConfig = VerifierConfig()
    model: ModelConfig = ModelConfig()
    policy: PolicyConfig = PolicyConfig()
    lora: LoraConfig = LoraConfig()
    supervised: SupervisedConfig = SupervisedConfig()
    rollout: RolloutConfig = RolloutConfig()
    sampler: SamplerConfig = SamplerConfig()
    weighting: WeightingConfig = WeightingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    kl: KlConfig = KlConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()

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

    @model_validator(mode="after")
    def _mini_batches_are_equal(self) -> "Config":
        if self.rollout.prompts_per_step % self.optimizer.mini_batches:
            raise ValueError(
                f"optimizer.mini_batches = {self.optimizer.mini_batches} must divide rollout.prompts_per_step = "
                f"{self.rollout.prompts_per_step}"
            )
        return self

    @model_validator(mode="after")
    def _penalty_sees_every_group(self) -> "Config":
        if self.rollout.dynamic_sampling and self.kl.coefficient:
            raise ValueError(
                "kl.coefficient above 0 does not go with rollout.dynamic_sampling: the divergence over groups that "
                "were kept for their successes is not the policy's"
            )
        return self

    @model_validator(mode="after")
    def _engine_takes_the_temperature(self) -> "Config":
        if self.sampler.backend == "vllm" and 0 < self.evaluation.temperature < 0.01:
            raise ValueError("evaluation.temperature must be 0 or at least 0.01 with sampler.backend = 'vllm'")
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


# What other trainers call the settings that cut or bend the distribution of tokens.
TRUNCATIONS = frozenset({"top_p", "top_k", "min_p", "typical_p", "repetition_penalty"})


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
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        read = {"value": text}
    if read.keys() != {"value"}:
        raise UsageError(f"--set {override!r} holds more than one value: give each a --set of its own")
    value = read["value"]
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
    # The discriminator of a union stands in the path as if it were a key; `KEY` marks a bad key of a mapping.
    location = [str(part) for part in first["loc"] if part != KEY]
    if location[:1] == ["task"] and len(location) > 1 and location[1] == document.get("task", {}).get("name"):
        del location[1]
    key = ".".join(location)
    kind = first["type"]
    if kind == "extra_forbidden":
        *sections, last = location
        if last in TRUNCATIONS:
            return (
                f"config key {key!r} is refused: tokens are drawn from the whole distribution, since the "
                "log-probabilities of a truncated one are not the policy's; 'rollout.temperature' is accounted for"
            )
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
    if kind in ("model_type", "model_attributes_type", "dict_type", "mapping_type"):
        form = "a table, { key = value, … }" if location[-1].isdigit() else f"a section of keys, [{key}]"
        return f"config key {key!r} is {first['input']!r}; it must be {form}"
    if kind == "tuple_type":
        return f"config key {key!r} is {first['input']!r}; it must be a list, in brackets: [ … ]"
    message = first["msg"].removeprefix("Value error, ").replace("Tuple", "List")
    if kind in BOUNDS:
        place = [*location[:-1], KEY] if KEY in first["loc"] else location
        message = _range(_annotation(place, document)[1])
    if not location:
        return f"config: {message}"
    return f"config key {key!r} is {first['input']!r}: {message[0].lower()}{message[1:]}"


def _is_missing(error: Mapping[str, Any]) -> bool:
    return error["type"] == "missing"


# Errors of pydantic that name one end of a range, and how a bound is called here.
BOUNDS = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"})
ENDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}

# What pydantic puts behind the key of a mapping that is bad itself.
KEY = "[key]"


def _known_keys(sections: Sequence[str], document: Mapping[str, Any]) -> list[str]:
    (model, *_) = _annotation(sections, document)
    return list(model.model_fields)


def _annotation(place: Sequence[str], document: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """The type of what stands at a place of a configuration, and what is said of it beside its type."""
    found: Any = Config
    said: list[Any] = []
    for part in place:
        if found is Config and part == "task":
            found, said = TASK_SECTIONS[document["task"]["name"]], []
        elif isinstance(found, type) and issubclass(found, BaseModel):
            field = found.model_fields[part]
            found, said = field.annotation, [*field.metadata]
        elif get_origin(found) is tuple:  # an entry of a list; the types of its entries end in ... if they are one
            types = get_args(found)
            found, said = types[0 if types[-1] is ... else int(part)], []
        else:
            found, said = get_args(found)[part != KEY], []
        while get_origin(found) in (Annotated, Union, UnionType):
            inner = get_args(found)
            if get_origin(found) is Annotated:
                found = inner[0]
                said += [more for each in inner[1:] for more in getattr(each, "metadata", [each])]
            else:
                found = next(each for each in inner if each is not NoneType and get_origin(each) is not Literal)
    return found, said


def _range(said: Sequence[Any]) -> str:
    """Both ends of the range that a number must be in, in words."""
    ends = [(word, getattr(each, name)) for name, word in ENDS.items() for each in said if hasattr(each, name)]
    return "it must be " + " and ".join(
        f"{word} {end:,}" if isinstance(end, int) else f"{word} {end:g}" for word, end in ends
    )
