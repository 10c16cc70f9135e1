"""What a sweep is: TOML written by hand, or options of the command line, read into frozen records.

The resolved configuration, every value stated, lies beside the results as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sim.errors import UsageError
from weightopt.settings import Integer, Number, Section, SettingsError, as_list, each_once, load, shipped_configs

# The measured settings, which --config may name: sft for configs/simulate/sft.toml.
SHIPPED = shipped_configs("simulate")

LARGEST_WORLD = 4 * 10**8  # numbers in a world's largest array: 3 GB

Success = Annotated[Number, Field(ge=1e-6, le=1 - 1e-6)]
Gradient = Literal["natural", "vanilla"]
T = TypeVar("T")
Several = Annotated[tuple[T, ...], BeforeValidator(as_list), Field(min_length=1), AfterValidator(each_once)]


class MeasuresConfig(Section):
    """``[measures]``: what is read off a trajectory."""

    targets: Several[Success] = (0.5, 0.8)
    """Levels of mean success whose cost is measured."""
    quantile: Annotated[Number, Field(ge=0, le=1)] = 0.1
    """The quantile over prompts that is recorded."""
    quantile_target: Success = 0.5
    """Level of that quantile whose cost is measured."""
    lifted: Success = 0.5
    """Success probability from which a prompt counts as lifted."""


class WarmUpConfig(Section):
    """``[warm_up]``: the push on all-wrong groups is held back at first."""

    steps: Annotated[Integer, Field(ge=0, le=10**9)] = 0
    """For how many steps."""
    shape: Literal["hold", "ramp"] = "hold"
    """At 0, or growing in proportion to the step."""


class TabularConfig(Section):
    """``[tabular]``: a softmax over answers; see `sim.tabular`."""

    answers: Annotated[Integer, Field(ge=2, le=65536)] = 32
    """Answers V to a prompt."""
    right: Annotated[Integer, Field(ge=1, le=65535)] = 1
    """How many of them are right."""
    spread: Annotated[Number, Field(ge=0, le=10)] = 1.0
    """Standard deviation of the logits at the start, among right and among wrong answers."""
    gradient: Gradient = "natural"
    """Whether a step is one in log-odds or in logits."""

    @model_validator(mode="after")
    def _some_are_wrong(self) -> Self:
        if self.right >= self.answers:
            raise ValueError("right must be below answers")
        return self


class SkillsConfig(Section):
    """``[shared]``: skills that prompts share, and where the policy starts; see `sim.skills`."""

    skills: Annotated[Integer, Field(ge=1, le=4096)] = 32
    """Skills d."""
    skills_per_prompt: Annotated[Integer, Field(ge=1, le=4096)] = 4
    """Skills s that a prompt needs."""
    conflict: Annotated[Number, Field(ge=0, le=0.5)] = 0.0
    """Probability with which a skill hurts a prompt."""
    gradient: Gradient = "natural"
    """Whether an update is preconditioned with the Fisher matrix."""
    damping: Annotated[Number, Field(ge=1e-9, le=1e3)] = 1e-3
    """Damping λ of the natural gradient."""
    start: Literal["scratch", "sft"] = "scratch"
    """Without any skill, or after supervised fine-tuning."""
    sft_success: Success = 0.4
    """Mean success after the fine-tuning."""
    sft_share: Annotated[Number, Field(ge=0.001, le=1)] = 0.5
    """Share of the prompts that are taught in it."""

    @model_validator(mode="after")
    def _enough_skills(self) -> Self:
        if self.skills_per_prompt > self.skills:
            raise ValueError("skills_per_prompt must be at most skills")
        return self


class Config(Section):
    """A sweep: every population with every weighting, step size and seed."""

    world: Literal["binary", "tabular", "shared"] = "binary"
    """A log-odds a prompt, a softmax over answers a prompt, or skills that prompts share."""
    engine: Literal["finite-sample", "mean-field", "large-group"] = "finite-sample"
    """Of the binary world: sampled groups, their expectation, or the limit of large groups."""
    step_model: Literal["ratio", "outcome"] = "ratio"
    """How a group moves the policy; see `sim.engine`."""
    weightings: Several[Annotated[str, Field(min_length=1)]] = ("grpo", "rloo", "linear-r", "sqrt-r")
    """Names of `weightopt list` or table files; the first is what the others are compared to."""
    populations: Several[Annotated[str, Field(min_length=1)]] = ("beta:0.3,3",)
    """Where prompts start: constant:R, uniform:LOW,HIGH, beta:A,B[,LOW] or csv:FILE."""
    step_sizes: Several[Annotated[Number, Field(ge=1e-9, le=1e6)]] = (0.05,)
    """Step sizes η of an update."""
    equal_budget: Annotated[tuple[Annotated[Number, Field(ge=1e-12, le=1 - 1e-12)], ...], BeforeValidator(as_list)] = ()
    """[start, target]: each weighting is scaled so that its drift budget between the two is 1; [] for as it stands."""
    seeds: Annotated[Integer, Field(ge=1, le=100_000)] = 5
    """Number of seeds."""
    first_seed: Annotated[Integer, Field(ge=0, le=2**62)] = 0
    """The first of them."""
    prompts: Annotated[Integer, Field(ge=1, le=10**8)] = 1000
    """Prompts in a population."""
    group_size: Annotated[Integer, Field(ge=2, le=65536)] = 16
    """Responses to a prompt M."""
    steps: Annotated[Integer, Field(ge=1, le=10**9)] = 1000
    """Updates."""
    record_every: Annotated[Integer, Field(ge=0, le=10**9)] = 0
    """Updates between two records; 0 for about 200 records."""
    most_groups: Annotated[Integer, Field(ge=1, le=1_000_000)] = 1
    """Above 1 all weightings sample dynamically; at 1 those alone that are defined by it (dapo), up to 64 groups."""
    all_wrong: Annotated[Number, Field(ge=-1e6, le=1e6)] | None = None
    """Advantage in all-wrong groups instead of the weighting's own."""
    threads: Annotated[Integer, Field(ge=0, le=1024)] = 0
    """Threads, 0 for all cores; changes no number."""
    save_every: Annotated[Number, Field(ge=0, le=1e9)] = 30.0
    """Seconds between two checkpoints of a cell; changes no number."""
    measures: MeasuresConfig = MeasuresConfig()
    warm_up: WarmUpConfig = WarmUpConfig()
    tabular: TabularConfig = TabularConfig()
    shared: SkillsConfig = SkillsConfig()

    @model_validator(mode="after")
    def _budget_has_two_ends(self) -> Self:
        if self.equal_budget and not (len(self.equal_budget) == 2 and self.equal_budget[0] < self.equal_budget[1]):
            raise ValueError("equal_budget must be two numbers in (0, 1), start before target")
        return self

    @model_validator(mode="after")
    def _world_can_do_it(self) -> Self:
        if self.world != "binary" and self.engine != "finite-sample":
            raise ValueError(f"world {self.world!r} samples its responses: engine must be finite-sample")
        if self.world == "tabular" and self.tabular.gradient == "vanilla" and self.step_model != "ratio":
            raise ValueError("tabular.gradient 'vanilla' has one step model: step_model must be ratio")
        width = {"binary": 1, "tabular": self.tabular.answers, "shared": self.shared.skills}[self.world]
        if self.prompts * width > LARGEST_WORLD:
            what = {"tabular": "tabular.answers", "shared": "shared.skills"}[self.world]
            raise ValueError(
                f"prompts and {what} ask for {self.prompts * width} numbers; their product must be at most "
                f"{LARGEST_WORLD}"
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """Every value, as JSON types."""
        return self.model_dump(mode="json")


def load_config(path: Path | None, stated: Mapping[str, Any] | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration; see `weightopt.settings.load`.

    Raises
    ------
    UsageError
        If the file cannot be read, is not TOML, or holds an unknown key or a value out of range.
    """
    try:
        return load(Config, path, overrides, stated=stated, shipped=SHIPPED)
    except SettingsError as error:
        raise UsageError(str(error)) from None
