"""Sections of a configuration for how a weight table is read, and for evaluation."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from weightopt.settings import File, Integer, Number, Section


class LaterTable(Section):
    """An entry of ``later_tables``: a table that takes the place of the one before it."""

    from_step: Annotated[Integer, Field(ge=2)]
    """The first step of the table."""
    table: File
    """File of the table."""


class WeightingConfig(Section):
    """``[weighting]``: how the table is read; docs/training.md says what each choice does to the weighting."""

    all_wrong: Literal["table", "off", "hold", "ramp"] = "table"
    """Advantage in groups without a success: the table's, none, none up to a step, or rising from that step on."""
    all_wrong_after: Annotated[Integer, Field(ge=0)] | None = None
    """The last step without an advantage in all-wrong groups."""
    all_wrong_full_at: Annotated[Integer, Field(ge=1)] | None = None
    """The step at which a ramp reaches the table's advantage. Experimental: no run has measured the ramp."""
    follow: File | None = None
    """A table file that others write while the run goes on, such as `weightopt advise --follow`; it need not exist."""
    follow_every: Annotated[Integer, Field(ge=1)] | None = None
    """Steps after which it is looked at. Experimental: no run has measured tables that follow a run."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "WeightingConfig":
        if (self.follow is None) != (self.follow_every is None):
            raise ValueError("follow goes with follow_every, and that with it")
        if (self.all_wrong_after is not None) != (self.all_wrong in ("hold", "ramp")):
            raise ValueError("all_wrong_after goes with all_wrong = 'hold' or 'ramp', and they with it")
        if (self.all_wrong_full_at is not None) != (self.all_wrong == "ramp"):
            raise ValueError("all_wrong_full_at goes with all_wrong = 'ramp', and that with it")
        if self.all_wrong_full_at is not None and self.all_wrong_full_at <= (self.all_wrong_after or 0):
            raise ValueError("all_wrong_full_at must be greater than all_wrong_after")
        return self


class EvaluationConfig(Section):
    """``[evaluation]``: success on held-out prompts."""

    prompts: Annotated[Integer, Field(ge=2, le=65536)] = 128
    """Held-out prompts."""
    samples: Annotated[Integer, Field(ge=1, le=65536)] = 4
    """Responses to each."""
    temperature: Annotated[Number, Field(ge=0, le=10)] = 1.0
    """Temperature of the samples; 0 takes the most probable tokens."""
    seed: Annotated[Integer, Field(ge=0)] = 0
    """Picks the prompts, and resamples them for the interval."""
    pass_at: tuple[Annotated[Integer, Field(ge=1)], ...] = ()
    """The k of pass@k, each at most samples."""
    greedy: bool = False
    """Whether success of the most probable response is measured too."""
    keep_best: bool = True
    """Whether the model with the highest success so far is kept."""

    @model_validator(mode="after")
    def _enough_samples(self) -> "EvaluationConfig":
        if self.pass_at and max(self.pass_at) > self.samples:
            raise ValueError(f"pass_at asks for {max(self.pass_at)} samples to a prompt, and samples is {self.samples}")
        if self.pass_at and self.temperature == 0:
            raise ValueError("pass_at needs a temperature above 0: at 0 all samples to a prompt are the same")
        return self
