"""Sections of a configuration for the trained model: its shape, its start, how it is computed and what is trained."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from weightopt.settings import Integer, Number, Section

# A model made from nothing is for small experiments; beyond this it would not fit into memory with its gradients.
MOST_PARAMETERS = 10**9


class ModelConfig(Section):
    """``[model]``: the shape of a Llama made from nothing; not read when a start model is given.

    At width 128 a model started at 0.06 reaches the format in half the steps that the usual 0.02 takes, which suits
    widths of some thousands. Two wide layers learn as much a step as four narrower ones with as many parameters, in
    three quarters of the time.
    """

    layers: Annotated[Integer, Field(ge=1, le=64)] = 2
    """Layers."""
    hidden_size: Annotated[Integer, Field(ge=8, le=8192)] = 160
    """Width of the residual stream, a multiple of 2 * heads."""
    intermediate_size: Annotated[Integer, Field(ge=8, le=32768)] = 640
    """Width of the hidden layer of an MLP."""
    heads: Annotated[Integer, Field(ge=1, le=128)] = 4
    """Attention heads."""
    context: Annotated[Integer, Field(ge=8, le=131072)] = 64
    """Longest prompt with its response, in tokens."""
    initializer_range: Annotated[Number, Field(gt=0, lt=1)] = 0.06
    """Standard deviation of the initial weights."""

    @model_validator(mode="after")
    def _can_be_built(self) -> "ModelConfig":
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size must be a multiple of 2 * heads = {2 * self.heads}")
        parameters = self.layers * self.hidden_size * (4 * self.hidden_size + 3 * self.intermediate_size)
        if parameters > MOST_PARAMETERS:
            raise ValueError(
                f"layers, hidden_size and intermediate_size ask for {parameters:,} parameters; a model made from "
                f"nothing has at most {MOST_PARAMETERS:,}"
            )
        return self


class PolicyConfig(Section):
    """``[policy]``: how the trained model is held and computed."""

    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """With "bf16" computes in bfloat16 what torch's autocast does, from weights that stay in float32; "auto" is "bf16"
    on a GPU that has it and on a processor with AVX-512, else "fp32"."""
    gradient_checkpointing: bool = False
    """Compute the layers of a backward pass again instead of keeping what they held."""
    logits_at_once: Literal["auto"] | Annotated[Integer, Field(ge=1, le=2**40)] = "auto"
    """Bound on the logits (tokens times vocabulary) that exist at a time while learning: a number, or "auto", 2^23
    on a CPU and 2^28 on a GPU. Experimental: other values and the one on a GPU have not been measured."""
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    """Implementation in transformers; "auto" is "eager" on a CPU, the faster for a few dozen tokens, else "sdpa"
    if it computes the same."""


class LoraConfig(Section):
    """``[lora]``: with a rank above 0 only an adapter is trained, W + (alpha/rank) B A for each weight."""

    rank: Annotated[Integer, Field(ge=0, le=4096)] = 0
    """Rank of the adapter; 0 trains the whole model. Experimental: no run has measured one."""
    alpha: Annotated[Number, Field(gt=0, le=1e6)] | None = None
    """By default 2 * rank."""
    targets: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"
    """Layers that get an adapter, e.g. ["q_proj", "v_proj"]; "all-linear" is all but the output layer."""

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
    """``[supervised]``: the phase that teaches a new model the format; not read when a start model is given."""

    steps: Annotated[Integer, Field(ge=1, le=10**9)] = 400
    """Steps after which the phase ends at the latest."""
    batch_size: Annotated[Integer, Field(ge=1, le=65536)] = 256
    """Demonstrations in a step."""
    learning_rate: Annotated[Number, Field(gt=0, lt=1)] = 3e-3
    """Learning rate of AdamW."""
    solved_share: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Share of the demonstrations that are correct."""
    check_every: Annotated[Integer, Field(ge=1)] = 10
    """Steps between two measurements of success on held-out prompts."""
    stop_at: Annotated[Number, Field(gt=0, le=1)] = 0.08
    """Success at which the phase ends."""
