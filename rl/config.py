"""What a run is: a section for each part, and the rules between them.

Each section stands beside its user, in the ``config`` module of its room or in the module of its task. The defaults are
the settings that were measured (see the files in ``configs/``); a record written beside a run, by `Config.to_json`,
holds every value used.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from rl.errors import UsageError
from rl.learning.config import KlConfig, OptimizerConfig
from rl.models.config import LoraConfig, ModelConfig, PolicyConfig, SupervisedConfig
from rl.run.config import TrackingConfig, TrainingConfig
from rl.samplers.config import RolloutConfig, SamplerConfig
from rl.step.config import EvaluationConfig, LaterTable, WeightingConfig
from rl.tasks.config import TASKS, TaskConfig
from rl.verification.config import VerifierConfig
from weightopt.settings import ByName, File, Integer, Section, SettingsError, load, of_form, parse, shipped_configs

# Keys that versions before had, the value at which each did nothing, and what holds without it.
GONE: Mapping[str, tuple[Any, str]] = {
    "kl.estimator": ("score", "the gradient is that of the divergence"),
    "optimizer.cosine_until": (None, "the learning rate is constant after optimizer.warmup_steps"),
    "optimizer.final_share": (0.1, "the learning rate is constant after optimizer.warmup_steps"),
    "weighting.estimate": ("group", "the table is read at K/M of the group itself"),
}

# What other trainers call the settings that cut or bend the distribution of tokens, and what is gone.
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        ("top_p", "top_k", "min_p", "typical_p", "repetition_penalty"),
        "tokens are drawn from the whole distribution, since the log-probabilities of a truncated one are not the "
        "policy's; 'rollout.temperature' is accounted for",
    ),
    **{key: f"it is gone since version 0.3, and {instead}; leave it out" for key, (_, instead) in GONE.items()},
}

# The measured settings, which --config may name: demo for configs/demo.toml.
SHIPPED = shipped_configs()

# What is trained on where no file says it.
TASK: Mapping[str, Any] = {"name": "addition", "digits": {"1": 1.0, "2": 1.0, "3": 1.0}}


class Config(Section):
    """A whole run."""

    seed: Annotated[Integer, Field(ge=0)] = 0
    """Seed of the run."""
    threads: Annotated[Integer, Field(ge=1, le=1024)] = 1
    """CPU threads; results are repeatable bit for bit at the same number only."""
    device: Annotated[str, of_form(r"auto|cpu|cuda(:\d{1,3})?", "auto, cpu, cuda or cuda:N")] = "auto"
    """Where the model is: auto (the GPU if there is one), cpu, cuda or cuda:N."""
    table: File | None = None
    """File of a weight table, a curve or one for groups of rollout.group_size."""
    later_tables: tuple[LaterTable, ...] = ()
    """Tables that take its place one after the other, each { from_step = N, table = FILE }.
    Experimental: no run has measured a change of tables."""
    start_model: File | None = None
    """Folder of the start model, or hub:owner/name[@revision]; without one, [model] and [supervised] make one."""
    task: Annotated[SerializeAsAny[TaskConfig], ByName(TASKS)]
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
    def _sections_agree(self) -> "Config":
        dynamic, engine = self.rollout.dynamic_sampling, self.sampler.backend == "vllm"
        if dynamic and self.weighting.all_wrong in ("hold", "ramp"):
            raise ValueError(
                f"weighting.all_wrong = {self.weighting.all_wrong!r} would never act with rollout.dynamic_sampling, "
                "which drops all-wrong groups"
            )
        if self.rollout.prompts_per_step % self.optimizer.mini_batches:
            raise ValueError(
                f"optimizer.mini_batches = {self.optimizer.mini_batches} must divide rollout.prompts_per_step = "
                f"{self.rollout.prompts_per_step}"
            )
        if dynamic and self.kl.coefficient:
            raise ValueError(
                "kl.coefficient above 0 does not go with rollout.dynamic_sampling: the divergence over groups that "
                "were kept for their successes is not the policy's"
            )
        if dynamic and self.sampler.ahead is not None:
            raise ValueError(
                "sampler.ahead does not go with rollout.dynamic_sampling: how many prompts a step asks follows from "
                "the verdicts on those before"
            )
        if engine and 0 < self.evaluation.temperature < 0.01:
            raise ValueError("evaluation.temperature must be 0 or at least 0.01 with sampler.backend = 'vllm'")
        return self

    def to_json(self) -> dict[str, Any]:
        """Every value, as JSON types."""
        return self.model_dump(mode="json")


def load_config(path: Path | None, overrides: Sequence[str] = (), stated: Mapping[str, Any] | None = None) -> Config:
    """Read a configuration file, and change it by ``"section.key=value"`` each; see `weightopt.settings.load`.

    One that comes with the project is named without folder and ending, such as ``demo``. Without a file these are the
    defaults, with additions of one to three digits as the task.

    Raises
    ------
    UsageError
        If the file cannot be read, is not TOML, or holds an unknown key or a value out of range.
    """
    try:
        changes = None if path else {"task": TASK}
        return load(Config, path, overrides, changes=changes, stated=stated, refused=REFUSED, shipped=SHIPPED)
    except SettingsError as error:
        raise UsageError(str(error)) from error


def parse_config(document: Mapping[str, Any]) -> Config:
    """Check a configuration that is already a dictionary; raises like `load_config`."""
    try:
        return parse(Config, document, refused=REFUSED)
    except SettingsError as error:
        raise UsageError(str(error)) from error
