"""What a run starts from: a folder, or the name of a model on the Hugging Face hub, and the checksum of its weights."""

import re
from hashlib import file_digest, sha256
from pathlib import Path

from rl.errors import UsageError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# Weights in other formats than safetensors are neither read nor fetched.
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def start_folder(name: Path) -> Path:
    """The folder of a start model; fetched from the hub if it is none but looks like ``owner/name``.

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
        reason = " ".join(str(error).split())
        raise UsageError(
            f"start_model {str(name)!r} is no folder here, and the hub did not give a model of that name ({reason})"
        ) from error


def weights_checksum(folder: Path) -> str:
    """sha256 of the weights of a model as ``"sha256:<hex>"``: of the one file, or of the list of its parts' checksums.

    Raises
    ------
    UsageError
        If the folder has no weights in safetensors that can be read.
    """
    parts = sorted(folder.glob("model*.safetensors"))
    if not parts or (folder / "model.safetensors").exists():
        parts = [folder / "model.safetensors"]
    try:
        digests = [_digest(part) for part in parts]
    except OSError as error:
        raise UsageError(f"start_model {str(folder)!r} has no readable model.safetensors: {error.strerror}") from error
    if len(digests) == 1:
        return f"sha256:{digests[0]}"
    lines = "".join(f"{digest}  {part.name}\n" for digest, part in zip(digests, parts, strict=True))
    return f"sha256:{sha256(lines.encode()).hexdigest()}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
