"""Sections of a configuration for the optimizer and the penalty."""

from typing import Annotated

from pydantic import Field, model_validator

from weightopt.settings import File, Integer, Number, Section


class OptimizerConfig(Section):
    """``[optimizer]``: AdamW, and how many updates a step makes.

    From the second update of a step on the gradient of a token is multiplied by the ratio of its probability to that
    before the first one.
    """

    learning_rate: Annotated[Number, Field(gt=0, lt=1)] = 5e-4
    """Learning rate."""
    betas: tuple[Annotated[Number, Field(ge=0, lt=1)], Annotated[Number, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """Decay of AdamW's two means."""
    epsilon: Annotated[Number, Field(gt=0, lt=1)] = 1e-8
    """AdamW's ε."""
    weight_decay: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """AdamW's weight decay."""
    max_grad_norm: Annotated[Number, Field(gt=0, allow_inf_nan=False)] | None = None
    """Norm that the gradient is clipped to; by default it is not."""
    tokens_per_micro_batch: Annotated[Integer, Field(ge=1, le=2**30)] = 8192
    """Tokens in a forward pass: bounds its memory and changes no result beyond rounding. A prompt counts once however
    many responses it has; where attention pads, as on a CPU, what it holds counts as so many tokens."""
    warmup_steps: Annotated[Integer, Field(ge=0)] = 0
    """Steps over which the learning rate rises in equal parts."""
    mini_batches: Annotated[Integer, Field(ge=1, le=65536)] = 1
    """Updates that the groups of a step are shared out among. Experimental: no run has measured several."""
    epochs: Annotated[Integer, Field(ge=1, le=1000)] = 1
    """Times that all groups of a step are gone through. Experimental: no run has measured several."""
    clip_low: Annotated[Number, Field(gt=0, le=1)] | None = None
    """PPO's lower bound on the ratio is 1 - clip_low. Experimental: no run has measured it."""
    clip_high: Annotated[Number, Field(gt=0, le=1e6)] | None = None
    """PPO's upper bound on the ratio is 1 + clip_high. Experimental: no run has measured it."""

    @property
    def updates(self) -> int:
        """Updates in a step."""
        return self.mini_batches * self.epochs

    def rate_at(self, step: int) -> float:
        """Learning rate of each update of ``step`` ≥ 1: of nothing else, so a run that is prolonged keeps its past."""
        warm = step >= self.warmup_steps
        return self.learning_rate if warm else self.learning_rate * step / self.warmup_steps

    @model_validator(mode="after")
    def _clips_something(self) -> "OptimizerConfig":
        if self.updates == 1 and (self.clip_low is not None or self.clip_high is not None):
            raise ValueError(
                "clip_low and clip_high go with mini_batches or epochs above 1: with one update a step all ratios are 1"
            )
        return self


class KlConfig(Section):
    """``[kl]``: a penalty on the divergence from a reference, coefficient times KL(policy ‖ reference)."""

    coefficient: Annotated[Number, Field(ge=0, le=1e6)] = 0.0
    """Coefficient of the penalty; 0 for none. Experimental: no run has measured one."""
    reference: File | None = None
    """Folder of a model, or hub:owner/name[@revision]; by default the start model."""

    @model_validator(mode="after")
    def _keys_of_a_penalty(self) -> "KlConfig":
        if not self.coefficient and self.reference is not None:
            raise ValueError("reference goes with a coefficient above 0")
        return self
