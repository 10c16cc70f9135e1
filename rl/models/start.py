"""What a run starts from: a folder, or the name of a model on the Hugging Face hub, and the checksum of its weights."""

import re
from hashlib import sha256
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rl.errors import UsageError
from rl.storage import sha256_of

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# Weights in other formats than safetensors are neither read nor fetched.
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def start_folder(name: Path, *, key: str = "start_model") -> Path:
    """The folder of a model that ``key`` names; fetched from the hub if it is none but looks like ``owner/name``.

    Raises
    ------
    UsageError
        If the hub has no such model or cannot be reached.
    """
    if name.exists() or not HUB_NAME.fullmatch(str(name)):
        return name
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=list(WANTED)))
    except Exception as error:  # of the network, of the hub, of its cache on disk
        reason = " ".join(str(error).split()).partition(". ")[0]  # what follows is advice about the hub's library
        raise UsageError(
            f"{key} {str(name)!r} is no folder here, and the hub did not give a model of that name ({reason})"
        ) from error


def weights_checksum(folder: Path, *, key: str = "start_model") -> str:
    """sha256 of the weights of a model as ``"sha256:<hex>"``: of the one file, or of the list of its parts' checksums.

    ``key`` is what names the model in the configuration.

    Raises
    ------
    UsageError
        If the folder has no weights in safetensors that can be read, or one of its files is cut or garbled.
    """
    parts = weight_files(folder)
    try:
        digests = [sha256_of(part) for part in parts]
    except OSError as error:
        raise _unreadable(folder, error, key) from error
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
        try:
            part.open("rb").close()  # safetensors does not say why a file cannot be opened
        except OSError as error:
            raise _unreadable(folder, error, key) from error
        check_weights(part)
        with safe_open(part, framework="pt") as weights:
            count += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count


def check_weights(path: Path) -> None:
    """Refuse a file that is not safetensors, whole; its head says how long it must be.

    Raises
    ------
    UsageError
        Naming it.
    """
    try:
        with safe_open(path, framework="np"):
            pass
    except FileNotFoundError as error:
        raise UsageError(f"file {str(path)!r} is missing: put a copy of it there, or start again without it") from error
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"file {str(path)!r} is damaged ({reason}): put a whole copy of it there, or start again without it"
        ) from error


def _unreadable(folder: Path, error: OSError, key: str) -> UsageError:
    return UsageError(f"{key} {str(folder)!r} has no readable model.safetensors: {error.strerror}")


def weight_files(folder: Path) -> list[Path]:
    """The one file of a model's weights, whether it is there or not, or its parts."""
    parts = sorted(folder.glob("model*.safetensors"))
    return [folder / "model.safetensors"] if not parts or (folder / "model.safetensors").exists() else parts
