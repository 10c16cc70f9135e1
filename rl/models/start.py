"""What a run starts from: a folder, or a model on the Hugging Face hub, and the checksum of its weights.

A folder is data, whoever wrote it: its Python is never run, and its weights are safetensors, whose files are named here
before transformers looks for any.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from math import prod
from pathlib import Path
from reprlib import repr as shown
from typing import Any

from safetensors import SafetensorError, safe_open

from rl.errors import UsageError, one_line, refusing
from rl.hub import FORM, MODELS, is_hub_name, read_hub_name
from rl.storage import sha256_of

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

# Layers that a model without weights, of which only the shape is looked at, may have.
MOST_LAYERS = 1000

# Weights in other formats than safetensors are neither read nor fetched.
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def start_folder(name: Path, *, key: str = "start_model") -> Path:
    """The folder of a model that ``key`` names: ``name``, or what the hub has under ``hub:owner/name[@revision]``.

    Raises
    ------
    UsageError
        If there is no such folder, or the hub has no such model or cannot be reached.
    """
    if not is_hub_name(name):
        if name.is_dir():
            return name
        way = f"a model of the Hugging Face hub is named {FORM}"
        if name.name in MODELS:
            way = f"weightopt model {name.name} --output {name} makes it"
        raise UsageError(f"{key} {str(name)!r} is no folder here; {way}")
    owner_and_name, revision = read_hub_name(name, key=key)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(owner_and_name, revision=revision, allow_patterns=list(WANTED)))
    except Exception as error:  # of the network, of the hub, of its cache on disk
        reason = one_line(error, first=True).partition(". ")[0]  # what follows is advice about the hub's library
        raise UsageError(f"{key} {str(name)!r}: the hub did not give a model of that name ({reason})") from error


def hub_revisions(**names: Path | None) -> dict[str, str]:
    """The commits of those models that come from the hub, whose cache has a folder for each; by their keys."""
    folders = {name: start_folder(model, key=name) for name, model in names.items() if model and is_hub_name(model)}
    return {name: folder.name for name, folder in folders.items()}


def check_model(folder: Path) -> None:
    """Refuse a folder that could have transformers load anything but the weights that are there, or build without end.

    Raises
    ------
    UsageError
        If it is no model, or asks for weights of another kind or place, for an adapter, or for a number of layers that
        its weights cannot hold.
    """
    name = f"model {str(folder)!r}"
    if not (folder / "config.json").is_file():
        raise UsageError(f"{name} is not a folder with a config.json and {WEIGHTS}")
    config = _document(folder / "config.json")
    if "transformers_weights" in config:
        raise UsageError(f"{name} names a file of weights in its config.json: they must be in {WEIGHTS} or {INDEX}")
    if (folder / "adapter_config.json").exists():
        raise UsageError(f"{name} holds an adapter (adapter_config.json), not a model: merge it into its model first")
    parts = weight_files(folder)
    there = all(part.exists() for part in parts)  # else transformers says what is missing
    tensors = 0
    for part in parts if there else ():
        check_weights(part)
        with safe_open(part, framework="np") as weights:
            tensors += len(weights.keys())
    # Each layer has weights, so this bounds the model before any of it is built.
    most = max(tensors, 1) if there else MOST_LAYERS
    bound = f"the number of tensors in its weights, {tensors}" if there else MOST_LAYERS
    for place, sizes in (("", config), ("text_config.", config.get("text_config"))):
        for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
            size = sizes.get(key, 1) if isinstance(sizes, Mapping) else 1
            if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= most:
                raise UsageError(
                    f"{name}: {place}{key} is {shown(size)} in its config.json; it must be between 1 and {bound}"
                )


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Say in a `UsageError` what is wrong with a model that a ``with`` block cannot read."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # transformers raises whatever a missing or garbled file leads to
        for file in sorted(folder.glob("*config.json")):
            if wanted := _document(file).get("auto_map"):
                raise UsageError(
                    f"model {str(folder)!r} asks for Python code of its own ({file.name} names {shown(wanted)}), "
                    "which is never run: only models and tokenizers that transformers has can be used"
                ) from error
        raise UsageError(f"model {str(folder)!r} cannot be read: {one_line(error, first=True)}") from error


def _document(file: Path) -> dict[str, Any]:
    """A JSON object that stands in a file of a model."""
    with refusing(f"file {str(file)!r} cannot be read", OSError, ValueError, RecursionError):
        document = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise UsageError(f"file {str(file)!r} must hold a JSON object")
    return document


def weights_checksum(folder: Path, *, key: str = "start_model") -> str:
    """sha256 of the weights of a model as ``"sha256:<hex>"``: of the one file, or of the list of its parts' checksums.

    ``key`` is what names the model in the configuration.

    Raises
    ------
    UsageError
        If the folder has no weights in safetensors that can be read, or one of its files is cut or garbled.
    """
    parts = weight_files(folder)
    with refusing(f"{key} {str(folder)!r} has no readable {WEIGHTS}", OSError):
        digests = [sha256_of(part) for part in parts]
    for part in parts:
        check_weights(part)
    if len(digests) == 1:
        return f"sha256:{digests[0]}"
    lines = "".join(f"{digest}  {part.name}\n" for digest, part in zip(digests, parts, strict=True))
    return f"sha256:{sha256(lines.encode()).hexdigest()}"


def parameters_in(folder: Path, *, key: str = "start_model") -> int:
    """Number of parameters of a model, read off the heads of its files of weights; raises like `weights_checksum`."""
    count = 0
    for part in weight_files(folder):
        with refusing(f"{key} {str(folder)!r} has no readable {WEIGHTS}", OSError):
            part.open("rb").close()  # safetensors does not say why a file cannot be opened
        check_weights(part)
        with safe_open(part, framework="pt") as weights:
            count += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count


def check_weights(path: Path) -> None:
    """Refuse, by a `UsageError`, a file that is not safetensors, whole; its head says how long it must be."""
    try:
        with safe_open(path, framework="np"):
            pass
    except FileNotFoundError as error:
        raise UsageError(f"file {str(path)!r} is missing: put a copy of it there, or start again without it") from error
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"file {str(path)!r} is damaged ({one_line(error)}): put a whole copy of it there, or start again without "
            "it"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model's weights: model.safetensors, or those that its index names. They need not exist.

    Raises
    ------
    UsageError
        If the index names anything but safetensors files beside it.
    """
    files = [folder / WEIGHTS]
    if not files[0].exists() and (folder / INDEX).is_file():
        named = _document(folder / INDEX).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise UsageError(f"file {str(folder / INDEX)!r} has no weight_map")
        for part in named.values():
            if not isinstance(part, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", part, re.ASCII):
                raise UsageError(
                    f"file {str(folder / INDEX)!r} names {shown(part)} for weights: they must be .safetensors files "
                    "in the same folder"
                )
        files = [folder / part for part in sorted(set(named.values()))]
    for file in files:
        if file.exists() and not file.is_file():
            raise UsageError(f"file {str(file)!r} is no regular file")
    return files
