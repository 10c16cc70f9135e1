"""Sections of a configuration for what is sampled in a step, and by whom."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from weightopt.settings import Integer, Number, Section


class RolloutConfig(Section):
    """``[rollout]``: what is sampled in a step.

    With ``dynamic_sampling`` further prompts are drawn until ``prompts_per_step`` groups hold both right and wrong
    responses, at most ``over_generation_limit`` times as many; only those groups are trained on, all are paid for.
    A response ends at its end token or as soon as one of the strings ``stop`` stands in it; see
    `rl.samplers.rollout.Sampler`.
    """

    prompts_per_step: Annotated[Integer, Field(ge=1, le=65536)] = 64
    group_size: Annotated[Integer, Field(ge=2, le=65536)] = 16
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
