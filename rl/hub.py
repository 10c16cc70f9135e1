"""Where models come from: names on the Hugging Face hub, and Python packages.

Names on the hub say that they are some, so that no mistyped path is looked for there.
"""

import re

from rl.errors import UsageError

FORM = "hub:OWNER/NAME or hub:OWNER/NAME@REVISION"
NAME = re.compile(r"hub:([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w.-]+))?", re.ASCII)

# Models that come as a Python package, and what they are.
MODELS = {"smollm2": "SmolLM2-135M-Instruct"}


def is_hub_name(name: object) -> bool:
    """Whether it is to be looked for on the hub."""
    return str(name).startswith("hub:")


def read_hub_name(name: object, *, key: str) -> tuple[str, str | None]:
    """``owner/name`` and the revision, None where there is none; ``key`` is what names it in the configuration.

    Raises
    ------
    UsageError
        If it is not of the form `FORM`.
    """
    named = NAME.fullmatch(str(name))
    if named is None:
        raise UsageError(f"{key} {str(name)!r} is no name on the hub: it must be {FORM}")
    return named[1], named[2]
