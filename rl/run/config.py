"""Sections of a configuration for how long a run is, what it keeps and where it is shown."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from weightopt.settings import Integer, Number, Section, of_form

# Of projects and runs, as all trackers take them.
NAME = (r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "1 to 64 of A-Z, a-z, 0-9, _, . and -, the first a letter or a digit")


class TrainingConfig(Section):
    """``[training]``: how long, and how often something is kept or measured.

    The last ``keep_checkpoints`` checkpoints stay on disk. ``rollout_share`` of the groups drawn are written to
    ``rollouts.jsonl``, all their responses.
    """

    steps: Annotated[Integer, Field(ge=1, le=10**9)] = 200
    evaluate_every: Annotated[Integer, Field(ge=1)] = 20
    checkpoint_every: Annotated[Integer, Field(ge=1)] = 20
    keep_checkpoints: Annotated[Integer, Field(ge=1)] = 1
    rollout_share: Annotated[Number, Field(ge=0, le=1)] = 0.0


class TrackingConfig(Section):
    """``[tracking]``: where the run's numbers are shown besides its own files; see `rl.trackers`.

    ``trackers`` are any of "tensorboard", "trackio" and "wandb", by default none. They know the run as ``run``, by
    default the name of its folder, of ``project``. ``wandb_mode = "online"`` uploads as it goes.
    """

    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    project: Annotated[str, of_form(*NAME)] = "weightopt"
    run: Annotated[str, of_form(*NAME)] | None = None
    wandb_mode: Literal["offline", "online"] = "offline"

    @field_validator("trackers")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("it names a tracker twice")
        return value
