"""What is said of one response, and how it is written into a pipe."""

import reprlib
import struct
from dataclasses import dataclass
from enum import Enum
from typing import Self

# Number of the request, and how many bytes follow: one for the verdict, then text. A pipe takes and gives up to 4096
# bytes in one piece.
HEAD = struct.Struct("<QI")
LONGEST = 1024


class Verdict(Enum):
    """How the judging of a response ended; only the first is a success. Values are what verifier processes write."""

    RIGHT = b"R"
    WRONG = b"W"
    UNREADABLE = b"U"  # no answer can be read in it
    TIMED_OUT = b"T"  # the verifier did not come to an end within its limit
    FAILED = b"F"  # the verifier raised, gave no verdict, ran out of memory, crashed, or tried what it may not do


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The verdict on one response, and for one that failed the reason."""

    verdict: Verdict
    reason: str = ""

    @classmethod
    def of(cls, said: object) -> Self:
        """The verdict that a return value of `rl.tasks.protocol.Verifier.verify` is.

        True, False, numpy's booleans and None are verdicts. Anything else is a failure, since a score of 0.1 or the
        word "wrong" would count as right by its truth value.
        """
        if said is None:
            return cls(verdict=Verdict.UNREADABLE)
        kind = type(said)
        if kind is bool or (kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_")):
            return cls(verdict=Verdict.RIGHT if said else Verdict.WRONG)
        return cls(
            verdict=Verdict.FAILED,
            reason=f"verify returned {reprlib.repr(said)}, of type {kind.__name__}: it must return True, False or None",
        )

    def reply(self, number: int) -> bytes:
        """The reply to the request of that number."""
        said = (self.verdict.value + self.reason.encode("utf-8", "backslashreplace"))[:LONGEST]
        return HEAD.pack(number, len(said)) + said

    @classmethod
    def read(cls, reply: bytes, number: int) -> Self | None:
        """What is said in a reply to that request; None if these bytes are anything else, also in part."""
        said = reply[HEAD.size :]
        if said[:1] not in {verdict.value for verdict in Verdict} or reply[: HEAD.size] != HEAD.pack(number, len(said)):
            return None
        return cls(verdict=Verdict(said[:1]), reason=said[1:].decode("utf-8", "replace"))
