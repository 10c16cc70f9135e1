"""Sections of a configuration for how long a run is, what it keeps and where it is shown."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from weightopt.settings import Integer, Number, Section, each_once, of_form

# Of projects and runs, as all trackers take them.
NAME = (r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "1 to 64 of A-Z, a-z, 0-9, _, . and -, the first a letter or a digit")


class TrainingConfig(Section):
    """``[training]``: how long, and how often something is kept or measured."""

    steps: Annotated[Integer, Field(ge=1, le=10**9)] = 200
    """Steps of the run."""
    evaluate_every: Annotated[Integer, Field(ge=1)] = 20
    """Steps between two evaluations."""
    checkpoint_every: Annotated[Integer, Field(ge=1)] = 20
    """Steps between two checkpoints."""
    keep_checkpoints: Annotated[Integer, Field(ge=1)] = 1
    """Checkpoints that stay on disk, the last ones."""
    rollout_share: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Share of the groups drawn that are written to rollouts.jsonl."""


class TrackingConfig(Section):
    """``[tracking]``: where the run's numbers are shown besides its own files; see `rl.run.trackers`."""

    trackers: Annotated[tuple[Literal["tensorboard", "trackio", "wandb"], ...], AfterValidator(each_once)] = ()
    """Any of "tensorboard", "trackio" and "wandb"."""
    project: Annotated[str, of_form(*NAME)] = "weightopt"
    """Project that the trackers know the run of."""
    run: Annotated[str, of_form(*NAME)] | None = None
    """Name that the trackers know the run by; by default that of its folder."""
    wandb_mode: Literal["offline", "online"] = "offline"
    """With online wandb uploads as it goes."""
