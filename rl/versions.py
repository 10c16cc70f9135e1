"""The versions of what a run was made with."""

import platform
from importlib.metadata import version

PACKAGES = ("numpy", "safetensors", "tokenizers", "torch", "transformers")


def versions() -> dict[str, str]:
    """Version of Python and of each package whose change can change the numbers of a run."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
