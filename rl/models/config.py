"""Sections of a configuration for the trained model, how it starts and how it is computed."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from weightopt.settings import Integer, Number, Section


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
    tokens, without its copies of the keys that query heads share (`rl.models.attention`), and "sdpa" elsewhere.
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

    steps: Annotated[Integer, Field(ge=1, le=10**9)] = 400
    batch_size: Annotated[Integer, Field(ge=1, le=65536)] = 256
    learning_rate: Annotated[Number, Field(gt=0, lt=1)] = 3e-3
    solved_share: Annotated[Number, Field(ge=0, le=1)] = 0.0
    check_every: Annotated[Integer, Field(ge=1)] = 10
    stop_at: Annotated[Number, Field(gt=0, le=1)] = 0.08
