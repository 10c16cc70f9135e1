"""Sections of a configuration for how a weight table is read, and for evaluation."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from weightopt.settings import File, Integer, Number, Section


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


class EvaluationConfig(Section):
    """``[evaluation]``: success on held-out prompts; ``seed`` picks the prompts and resamples them for the interval.

    ``pass_at`` lists the k of pass@k, each at most ``samples``. With ``greedy`` success of the most probable response
    is measured too. With ``keep_best`` the model with the highest success so far is kept.
    """

    prompts: Annotated[Integer, Field(ge=2, le=65536)] = 128
    samples: Annotated[Integer, Field(ge=1, le=65536)] = 4
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
