"""Sections of a configuration for what is sampled in a step, and by whom."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from weightopt.settings import Integer, Number, Section, of_form


class RolloutConfig(Section):
    """``[rollout]``: what is sampled in a step."""

    prompts_per_step: Annotated[Integer, Field(ge=1, le=65536)] = 64
    """Prompts in a step."""
    group_size: Annotated[Integer, Field(ge=2, le=65536)] = 16
    """Responses to a prompt M."""
    temperature: Annotated[Number, Field(ge=0.01, le=10)] = 1.0
    """Temperature of the sampling; accounted for in every log-probability."""
    max_new_tokens: Annotated[Integer, Field(ge=1, le=2**20)] = 16
    """Longest response, in tokens."""
    stop: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = ()
    """Strings that end a response."""
    include_stop: bool = False
    """Whether the string that ended a response belongs to its text, as </answer> does where a verifier asks for it."""
    dynamic_sampling: bool = False
    """Draw further prompts until prompts_per_step groups hold right and wrong responses; only those are trained on.
    Experimental: no run has measured it."""
    over_generation_limit: Annotated[Integer, Field(ge=1, le=10_000)] = 8
    """Times prompts_per_step that dynamic sampling draws at most."""


class SamplerConfig(Section):
    """``[sampler]``: what generates the responses, and how it is held to the trainer."""

    backend: Literal["torch", "vllm"] = "torch"
    """The trainer's own forward pass, or an engine in the same process with weights of its own."""
    precision: Literal["fp32", "bf16"] | None = None
    """Of the engine; by default that of [policy]. Experimental: no run has measured a precision of its own."""
    kv_cache_gib: Annotated[Number, Field(gt=0, le=4096)] = 1.0
    """Of the engine: GiB for keys and values."""
    gpu_memory_utilization: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Of the engine: share of the GPU that must be free for it; by default what it takes, see `rl.models.memory`."""
    max_sequences: Annotated[Integer, Field(ge=1, le=65536)] = 256
    """Of the engine: responses that it works on at a time."""
    context: Annotated[Integer, Field(ge=8, le=10_000_000)] | None = None
    """Of the engine: longest prompt with its response, by default what the model can do."""
    sleep: bool = False
    """Of the engine: whether it gives its GPU memory away while the trainer learns: it forgets its weights, which are
    handed over again."""
    sync_tolerance: Annotated[Number, Field(gt=0, le=100)] | None = None
    """Nats within which engine and trainer agree after a hand-over; by default 1e-4, or 0.5 with bfloat16."""
    importance_sampling: bool | None = None
    """Whether a token's gradient is multiplied by the ratio of both programs' probabilities; by default with vllm, and
    always with ahead."""
    importance_cap: Annotated[Number, Field(ge=1, le=1e6)] = 2.0
    """Cap of that ratio."""
    ahead: Annotated[str, of_form(r"cpu|cuda:\d{1,3}", "cpu or cuda:N")] | None = None
    """Where a process of its own draws the responses of the next step while this one learns, with weights one step
    old: cpu, or cuda:N, a GPU that does not train; by default a step draws its own. Experimental: one pair of short
    runs has measured it."""
    threads: Annotated[Integer, Field(ge=1, le=1024)] = 1
    """CPU threads of that process."""

    @property
    def cap(self) -> float | None:
        """Cap of the importance weights, None without importance sampling."""
        foreign = self.backend == "vllm" or self.ahead is not None
        wanted = foreign if self.importance_sampling is None else self.importance_sampling
        return self.importance_cap if wanted else None

    @model_validator(mode="after")
    def _keys_of_the_engine(self) -> "SamplerConfig":
        ours = {"backend", "importance_sampling", "importance_cap", "ahead", "threads"}
        changed = [name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default]
        others = [name for name in changed if name not in ours]
        if self.backend == "torch" and others:
            raise ValueError(f"{others[0]} goes with backend = 'vllm'")
        if self.cap is None and "importance_cap" in changed:
            raise ValueError("importance_cap goes with importance_sampling = true or backend = 'vllm'")
        if self.ahead is None and "threads" in changed:
            raise ValueError("threads goes with ahead")
        if self.ahead is not None and self.cap is None:
            raise ValueError("ahead draws with weights one step old, which only importance_sampling = true corrects")
        if self.ahead is not None and self.sleep:
            raise ValueError("sleep does not go with ahead: the engine draws while the trainer learns")
        return self
