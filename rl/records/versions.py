"""The versions of what a run was made with."""

import platform
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("numpy", "safetensors", "tokenizers", "torch", "transformers")


def versions(more: Sequence[str] = ()) -> dict[str, str]:
    """Version of Python and of each package whose change can change the numbers of a run.

    Of ``more``, which only some runs use, one that is not installed is left out.
    """
    found = {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
    for package in more:
        with suppress(PackageNotFoundError):  # it goes by another name, or is missed where it is needed
            found[package] = version(package)
    return found
