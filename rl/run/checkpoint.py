"""What a run needs to go on: weights, optimizer state, the number of steps made and what has been counted until then.

It holds no random state, because every draw of a run has a seed of its own (`rl.seeds`), and no place in a schedule,
which follows from the step (`rl.step.schedule`). A checkpoint is a folder::

    checkpoints/step-000120/model/                  weights, configuration, tokenizer: opens with transformers;
                                                    with LoRA the adapter, the tokenizer, and in base.json the
                                                    model it belongs to with its checksum: opens with peft
    checkpoints/step-000120/optimizer.safetensors   "exp_avg/<parameter>" and so on
    checkpoints/step-000120/state.json              schema and `RunState`
    checkpoints/step-000120/drawn.json              with `sampler.ahead` the responses of the next step, which the
                                                    weights of the step before have drawn
    checkpoints/step-000120/records.json            checksums of the run's records up to here (`rl.run.records`)
    checkpoints/step-000120/SHA256SUMS              checksums of the other files: sha256sum -c SHA256SUMS
    best/step-000080/                               the model of the best evaluation, to use and not to go on from

It is written under another name, flushed to disk and renamed, so that a folder with such a name is always whole. Older
checkpoints are removed once a newer one is safe.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter
from safetensors import safe_open
from safetensors.torch import save_file

from rl.errors import UsageError
from rl.models.config import LoraConfig, PolicyConfig
from rl.models.lora import add_adapter, load_adapter
from rl.models.policy import Policy, choose_device, load_policy, save_policy, settled
from rl.processes.sharded import gathered, parted_like, whole
from rl.records.layout import step_folder, step_folders, step_of
from rl.records.metrics import Spent
from rl.samplers.rollout import Drawn
from rl.seeds import derive_seed
from rl.storage import damage_in, whole_folder, withdraw, write_checksums

SCHEMA = "rl.checkpoint/4"
OPTIMIZER, STATE, DRAWN, RECORDS = "optimizer.safetensors", "state.json", "drawn.json", "records.json"
ADAMW = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of each parameter
UNFINISHED = re.compile(r"\.step-\d{6,}\.partial")

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run is.

    Attributes
    ----------
    evaluated
        Step of the last evaluation; None before the first.
    best_step, best_success
        The best evaluation so far, the earlier one of equals; None before the first.
    """

    step: Count = 0
    spent: Spent = field(default_factory=Spent)
    evaluated: Count | None = None
    best_step: Count | None = None
    best_success: Annotated[float, Field(ge=0, le=1)] | None = None


STATE_TYPE, DRAWN_TYPE = TypeAdapter(RunState), TypeAdapter(Drawn)


def open_policy(
    start: Path, checkpoint: Path | None, settings: PolicyConfig, lora: LoraConfig, *, device: str, seed: int
) -> Policy:
    """The policy of a run: that of a checkpoint, or the start model, with a new adapter if LoRA is asked for.

    Raises
    ------
    UsageError
        If the model does not fit the configuration, or an adapter does not belong to the start model.
    """
    place = choose_device(device)
    if not lora.rank:
        return load_policy(checkpoint / "model" if checkpoint else start, settings, device=place)
    settings, _ = settled(settings, place)
    # What is not trained needs no more precision than it is computed in.
    frozen = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    policy = load_policy(start, settings, device=place, dtype=frozen)
    if checkpoint is None:
        adapter = add_adapter(policy.model, lora, base=start, seed=derive_seed(seed, "adapter"))
    else:
        adapter = load_adapter(policy.model, checkpoint / "model", base=start)
    return policy.with_adapter(adapter)


def save_checkpoint(
    folder: Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    state: RunState,
    records: Mapping[str, Any],
    drawn: str | None = None,
) -> Path:
    """Write the checkpoint of ``state.step`` into ``folder``, unless it is there already; returns its path.

    It is the same whether the policy is sharded or not; then the leading process gathers and writes it.

    Parameters
    ----------
    records
        Checksums of the run's records, from `rl.run.records.Records.checksums`.
    drawn
        What has been drawn for the next step, as JSON; None if that draws its own.
    """
    path = step_folder(folder, state.step)
    plain = whole(policy)
    moments = _flatten(policy, optimizer, keep=plain is not None)
    if plain is None or path.is_dir():
        return path
    with whole_folder(path) as partial:
        save_policy(plain, partial / "model", merge=False)
        save_file(moments, partial / OPTIMIZER)
        document = {"schema": SCHEMA, **asdict(state)}
        (partial / STATE).write_text(json.dumps(document, allow_nan=False) + "\n", encoding="utf-8")
        if drawn is not None:
            (partial / DRAWN).write_text(drawn, encoding="utf-8")
        write_checksums(partial)
        # Not among them: the seconds in timing.jsonl differ from run to run, and the files of a checkpoint do not.
        (partial / RECORDS).write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    return path


def save_model(folder: Path, policy: Policy, *, step: int) -> None:
    """Write the model of ``step`` into ``folder``, in place of one that an interrupted run may have left there."""
    plain = whole(policy)
    if plain is not None:
        withdraw(step_folder(folder, step))
        save_whole(plain, step_folder(folder, step))


def save_whole(policy: Policy, folder: Path) -> None:
    """Write a model and its checksums into ``folder``, all of it or nothing."""
    with whole_folder(folder) as partial:
        save_policy(policy, partial)
        write_checksums(partial)


def prune(folder: Path, keep: Callable[[int], bool]) -> None:
    """Remove from ``folder`` what is left of unfinished folders, and the whole ones whose step ``keep`` refuses."""
    for path in step_folders(folder):
        if not keep(step_of(path)):
            withdraw(path)
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if UNFINISHED.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def kept_steps(folder: Path, *, count: int, every: int, last: int) -> set[int]:
    """Steps of the checkpoints to keep: ``last``, and the latest multiples of ``every``, ``count`` of them in all.

    A checkpoint at another step was made by an interruption, or by the end of a run that has been prolonged: it goes as
    soon as there is a later one, so that what is left does not tell.
    """
    found = map(step_of, step_folders(folder))
    regular = [step for step in found if step % every == 0 and step < last]
    return {last, *regular[len(regular) - (count - 1) :]} if count > 1 else {last}


def read_state(path: Path) -> tuple[RunState, dict[str, Any]]:
    """State saved in the checkpoint at ``path``, and the checksums of the records that the run had then.

    Raises
    ------
    UsageError
        If a file of the checkpoint is damaged, or it is not one of this version, or not that of this step.
    """
    name = path / STATE
    try:
        document = json.loads(name.read_text(encoding="utf-8"))
        schema = document.pop("schema")
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise refused(path, f"its {STATE} cannot be read") from error
    if schema != SCHEMA:
        raise refused(path, "another version wrote it")
    try:
        if document.keys() != {each.name for each in fields(RunState)}:
            raise ValueError("other keys")
        # Asked for as JSON, where a tuple is a list; built from what was read, so that no digit of it changes.
        STATE_TYPE.validate_json(json.dumps(document, allow_nan=False), strict=True)
        state = RunState(**{**document, "spent": Spent(**document["spent"])})
    except (ValueError, TypeError) as error:
        raise refused(path, f"its {STATE} is not one that a run has written") from error
    if state.step != step_of(path):
        raise refused(path, f"its {STATE} is that of step {state.step}")
    try:
        records = json.loads((path / RECORDS).read_text(encoding="utf-8"))
        if not isinstance(records, dict):
            raise TypeError("no table")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise refused(path, f"its {RECORDS} cannot be read") from error
    return state, records


def read_drawn(path: Path) -> str:
    """What had been drawn for the step after the checkpoint at ``path``, as JSON; raises as `read_state`."""
    try:
        drawn = (path / DRAWN).read_text(encoding="utf-8")
        DRAWN_TYPE.validate_json(drawn, strict=True)
    except (OSError, ValueError) as error:
        raise refused(path, f"its {DRAWN} is not one that a run has written") from error
    return drawn


def check_files(path: Path) -> None:
    """Refuse, by a `UsageError`, a checkpoint or a model one of whose files is missing or differs in a single bit."""
    if damage := damage_in(path, but=(RECORDS,)):
        raise refused(path, damage)


def load_optimizer_state(path: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Give ``optimizer``, made for the trained parameters of ``policy``, the state saved in a checkpoint.

    Raises
    ------
    UsageError
        If the file is not that of these parameters; ``optimizer`` is as it was.
    """
    parameters = policy.trained()
    # One after the other: a process that keeps a part of each need not hold them all.
    with safe_open(path / OPTIMIZER, framework="pt") as file:
        found = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118, it is no dictionary
        wanted = {
            f"{entry}/{name}": [] if entry == "step" else list(parameter.shape)
            for name, parameter in parameters.items()
            for entry in ADAMW
        }
        if wrong := sorted(key for key in {**found, **wanted} if found.get(key) != wanted.get(key)):
            raise refused(path, f"its {OPTIMIZER} is not that of its model: {wrong[0]!r}")
        counted = {id(each): group.get("fused") for group in optimizer.param_groups for each in group["params"]}
        for key in found:
            entry, name = key.split("/", maxsplit=1)
            value, parameter = file.get_tensor(key), parameters[name]
            if entry != "step":
                value = parted_like(value, parameter)
            elif counted[id(parameter)]:  # else AdamW counts its steps on the CPU
                value = value.to(parameter.device)
            optimizer.state[parameter][entry] = value


def refused(path: Path, reason: str) -> UsageError:
    """What to raise where a checkpoint cannot be gone on from."""
    return UsageError(f"cannot resume from {str(path)!r}: {reason}; put a whole copy there, or start in a new folder")


def _flatten(policy: Policy, optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, torch.Tensor]:
    """The state by name, whole; nothing for a process that has only helped to gather it."""
    entries = (
        (f"{entry}/{name}", gathered(value))
        for name, parameter in policy.trained().items()
        for entry, value in optimizer.state[parameter].items()
    )
    return {name: value.cpu() for name, value in entries if keep}
