"""Sections of a configuration for the optimizer and the penalty."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from weightopt.settings import File, Integer, Number, Section


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
    mini_batches: Annotated[Integer, Field(ge=1, le=65536)] = 1
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
