"""The section of a configuration for the processes that judge."""

from typing import Annotated

from pydantic import Field

from weightopt.settings import Integer, Number, Section


class VerifierConfig(Section):
    """``[verifier]``: the processes that judge where the verifier is not ours; see `rl.verification.pool`."""

    workers: Annotated[Integer, Field(ge=1, le=1024)] | None = None
    """Processes; by default as many as cores, at most 8."""
    seconds_per_answer: Annotated[Number, Field(ge=0.01, le=3600)] = 5.0
    """Seconds of computing that an answer may take."""
    memory_mib: Annotated[Integer, Field(ge=16, le=2**20)] = 1024
    """MiB of memory that an answer may take beyond what the verifier takes itself."""
    sealed: bool = True
    """Whether verifiers can neither write nor start anything; a task of your own whose verifier must can do without."""
