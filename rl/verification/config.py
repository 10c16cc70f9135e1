"""The section of a configuration for the processes that judge."""

from typing import Annotated

from pydantic import Field

from weightopt.settings import Integer, Number, Section


class VerifierConfig(Section):
    """``[verifier]``: the processes that judge responses where the verifier is not ours; see `rl.verification.pool`.

    There are ``workers`` of them, by default as many as cores, at most 8. An answer may take ``seconds_per_answer`` of
    computing and ``memory_mib`` of memory beyond what the verifier takes itself. ``sealed`` verifiers can neither write
    nor start anything; a task of your own whose verifier must can do without.
    """

    workers: Annotated[Integer, Field(ge=1, le=1024)] | None = None
    seconds_per_answer: Annotated[Number, Field(ge=0.01, le=3600)] = 5.0
    memory_mib: Annotated[Integer, Field(ge=16, le=2**20)] = 1024
    sealed: bool = True
