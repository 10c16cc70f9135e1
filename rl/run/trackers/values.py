"""From the records of a step to names and values as trackers show them.

Nothing is computed here: every number is a field of a record, its name is that of the field behind that of its group.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rl.records.metrics import EvaluationRecord, StepRecord, TimingRecord

Record = StepRecord | EvaluationRecord | TimingRecord

# The fields of a step by group; one that is not named here goes to "train".
GROUPS: Mapping[str, tuple[str, ...]] = {
    "success": ("reward", "all_wrong", "all_right", "finished", "parsable", "success_histogram"),
    "update": (
        "learning_rate",
        "gradient_norm",
        "clipped",
        "clip_factor",
        "updates_clipped",
        "ratio_clipped",
        "kl_per_token",
        "kl_per_response",
        "mean_abs_advantage",
        "distinct_responses",
        "all_wrong_factor",
        "table",
    ),
    "sampler": ("entropy", "log_ratio_mean", "log_ratio_max", "sampler_kl", "importance_truncated"),
    "spent": (
        "responses_so_far",
        "groups_so_far",
        "tokens_so_far",
        "updates_so_far",
        "tokens",
        "groups_drawn",
        "groups_trained",
    ),
    "verifier": ("timed_out", "failed"),
    "success_by_difficulty": ("histogram_by_difficulty",),
}
GROUP_OF: Mapping[str, str] = {name: group for group, names in GROUPS.items() for name in names}


@dataclass(frozen=True, kw_only=True)
class Values:
    """What is known of one step.

    Attributes
    ----------
    step
        Steps made.
    scalars
        Name to number; a truth value is 0 or 1.
    histograms
        Name to the number of groups with K correct responses, K = 0..M.
    texts
        Name to text.
    """

    step: int
    scalars: Mapping[str, float]
    histograms: Mapping[str, tuple[int, ...]]
    texts: Mapping[str, str]

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Values":
        """From the records of one step, in the order they were written."""
        values: dict[str, Any] = {}
        step = 0
        for record in records:
            step = record.step
            fields = asdict(record)
            del fields["step"]
            for name, value in fields.items():
                _flatten(values, f"{_group(record, name)}/{name}", value)
        return cls(
            step=step,
            scalars={name: float(value) for name, value in values.items() if isinstance(value, int | float)},
            histograms={name: value for name, value in values.items() if isinstance(value, tuple)},
            texts={name: value for name, value in values.items() if isinstance(value, str)},
        )


def _group(record: Record, name: str) -> str:
    match record:
        case EvaluationRecord():
            return "held_out"
        case TimingRecord():
            return "seconds"
        case StepRecord():
            return GROUP_OF.get(name, "train")


def _flatten(values: dict[str, Any], name: str, value: Any) -> None:
    """Put a field under its name, a mapping under one name for each key, an estimate beside its interval."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            _flatten(values, f"{name}/{key}", each)
    elif isinstance(value, tuple) and any(isinstance(each, float) for each in value):
        for suffix, each in zip(("", "_low", "_high"), value, strict=True):
            values[name + suffix] = each
    elif value is not None:
        values[name] = value
