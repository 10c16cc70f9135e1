"""One class for each tracker: what it is called, how a run is opened, gone on with, written to and closed.

The packages are imported when a tracker is opened, and nowhere else.
"""

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from rl.run.config import TrackingConfig
from rl.run.trackers.values import Values


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a tracker knows a run by.

    Attributes
    ----------
    project, name
        As shown to people; other runs may have them too.
    id
        Of this run alone, and the same when it goes on.
    resumed
        Whether the tracker may know the run already.
    folder
        Where a tracker that writes files puts them.
    about
        What ``run.json`` holds.
    """

    project: str
    name: str
    id: str
    resumed: bool
    folder: Path
    about: Mapping[str, Any]


class Tracker(Protocol):
    """A place that shows the values of a run.

    Attributes
    ----------
    package
        What it needs installed.
    rewrites
        Whether a run that goes on is sent from its beginning and replaces what was there; if not, it is sent from the
        first step on that the tracker has not been given.
    where
        Where to look, for people.
    """

    package: ClassVar[str]
    rewrites: ClassVar[bool]
    where: str

    def __init__(self, identity: Identity, config: TrackingConfig) -> None: ...

    def log(self, values: Values) -> None:
        """Send the values of a step; steps come in order."""
        ...

    def close(self) -> None:
        """Send what is still held back, and end."""
        ...


class TensorBoardTracker:
    """Event files in ``tracking/tensorboard``: ``tensorboard --logdir FOLDER`` finds them below the run's folder.

    A run that goes on says that all events before are void (``purge_step``) and writes them again, so that no step is
    there twice and none that was never finished stays.
    """

    package: ClassVar[str] = "tensorboard"
    rewrites: ClassVar[bool] = True

    def __init__(self, identity: Identity, config: TrackingConfig) -> None:  # noqa: ARG002
        from torch.utils.tensorboard import SummaryWriter

        folder = identity.folder / "tensorboard"
        self.where = f"tensorboard --logdir {folder}"
        purge = 0 if identity.resumed else None
        self._writer = SummaryWriter(log_dir=str(folder), purge_step=purge)
        self._texts: dict[str, str] = {}
        text = json.dumps(identity.about, indent=2).replace("\n", "\n    ")
        self._writer.add_text("run", f"    {text}", 0)  # indented by four: Markdown leaves it as it is

    def log(self, values: Values) -> None:
        """Send the values of a step."""
        for name, value in values.scalars.items():
            self._writer.add_scalar(name, value, values.step)
        for name, counts in values.histograms.items():
            successes = [k for k, count in enumerate(counts) for _ in range(count)]
            self._writer.add_histogram_raw(
                name,
                min=min(successes, default=0),
                max=max(successes, default=0),
                num=len(successes),
                sum=sum(successes),
                sum_squares=sum(k * k for k in successes),
                bucket_limits=[k + 0.5 for k in range(len(counts))],
                bucket_counts=list(counts),
                global_step=values.step,
            )
        for name, text in values.texts.items():
            if self._texts.get(name) != text:
                self._writer.add_text(name, text, values.step)
                self._texts[name] = text
        self._writer.flush()

    def close(self) -> None:
        """Send what is held back, and end."""
        self._writer.close()


class TrackioTracker:
    """A run in trackio's own local database, which ``trackio show`` opens; known by its name, so that holds the id."""

    package: ClassVar[str] = "trackio"
    rewrites: ClassVar[bool] = False

    def __init__(self, identity: Identity, config: TrackingConfig) -> None:  # noqa: ARG002
        with redirect_stdout(io.StringIO()):  # it prints, and what is printed here is ours or a JSON document
            import trackio  # pyright: ignore[reportMissingImports]

            self._trackio = trackio
            name = f"{identity.name}-{identity.id}"
            self._run = trackio.init(
                project=identity.project,
                name=name,
                config=dict(identity.about),
                resume="allow" if identity.resumed else "never",
                embed=False,
            )
        self.where = f"trackio show --project {identity.project!r}, run {name}"

    def log(self, values: Values) -> None:
        """Send the values of a step."""
        histograms = {
            name: self._trackio.Histogram(np_histogram=(list(counts), _edges(counts)))
            for name, counts in values.histograms.items()
        }
        self._run.log({**values.scalars, **values.texts, **histograms}, step=values.step)

    def close(self) -> None:
        """Send what is held back, and end."""
        with redirect_stdout(io.StringIO()):
            self._trackio.finish()


class WandbTracker:
    """A run of wandb, in files below ``tracking/wandb`` to be uploaded by ``wandb sync``, or online if asked for."""

    package: ClassVar[str] = "wandb"
    rewrites: ClassVar[bool] = False

    def __init__(self, identity: Identity, config: TrackingConfig) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._wandb = wandb
        online = config.wandb_mode == "online"
        self._run = wandb.init(
            project=identity.project,
            name=identity.name,
            id=identity.id,
            # Offline it cannot look: both parts have the same id and are joined when they are synced.
            resume="allow" if identity.resumed and online else None,
            dir=str(identity.folder),
            mode=config.wandb_mode,
            config=dict(identity.about),
            # It would take the terminal away from the display.
            settings=wandb.Settings(console="off", silent=True),
        )
        self.where = str(self._run.url) if online else f"wandb sync {identity.folder}/wandb/offline-run-*{identity.id}"

    def log(self, values: Values) -> None:
        """Send the values of a step."""
        histograms = {
            name: self._wandb.Histogram(np_histogram=(list(counts), _edges(counts)))
            for name, counts in values.histograms.items()
        }
        self._run.log({**values.scalars, **values.texts, **histograms}, step=values.step)

    def close(self) -> None:
        """Send what is held back, and end."""
        self._run.finish()


BACKENDS: Mapping[str, type[Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "trackio": TrackioTracker,
    "wandb": WandbTracker,
}


def _edges(counts: Sequence[int]) -> list[float]:
    """Of the bins of a histogram over K = 0..M, one around each K."""
    return [k - 0.5 for k in range(len(counts) + 1)]
