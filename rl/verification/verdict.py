"""What is said of one response."""

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How the judging of a response ended; only the first is a success. Values are what verifier processes write."""

    RIGHT = b"R"
    WRONG = b"W"
    UNREADABLE = b"U"  # no answer can be read in it
    TIMED_OUT = b"T"  # the verifier did not come to an end within its limit
    FAILED = b"F"  # the verifier raised, ran out of memory, crashed, or tried what it may not do

    @staticmethod
    def of(judged: bool | None) -> "Verdict":
        """From what `rl.tasks.protocol.Verifier.verify` returns."""
        if judged is None:
            return Verdict.UNREADABLE
        return Verdict.RIGHT if judged else Verdict.WRONG


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The verdict on one response, and for one that failed the reason."""

    verdict: Verdict
    reason: str = ""
