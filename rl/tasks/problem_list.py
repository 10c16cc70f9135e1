"""A task that is a list of problems with two sides."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from rl.tasks.protocol import Prompt
from rl.tasks.split import is_held_out


@dataclass(frozen=True, kw_only=True)
class ProblemList:
    """Problems to train on and held-out problems; a `rl.tasks.protocol.ListedTask`.

    Of prompts with the same name the first counts, and one that is held out is never trained on. ``notes`` are
    sentences for the user about how the list came about.
    """

    training: tuple[Prompt[Any], ...]
    held_out: tuple[Prompt[Any], ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def divide(cls, prompts: Iterable[Prompt[Any]], *, notes: Iterable[str] = ()) -> Self:
        """Put each problem on the side that its name decides; see `rl.tasks.split`."""
        each = _first_of_each_name(prompts)
        return cls(
            training=tuple(prompt for prompt in each if not is_held_out(prompt.id)),
            held_out=tuple(prompt for prompt in each if is_held_out(prompt.id)),
            notes=tuple(notes),
        )

    @classmethod
    def of_two_sides(
        cls, training: Iterable[Prompt[Any]], held_out: Iterable[Prompt[Any]], *, notes: Iterable[str] = ()
    ) -> Self:
        """Keep the sides as given, but for training problems that are held out as well: those are dropped."""
        measured = _first_of_each_name(held_out)
        names = {prompt.id for prompt in measured}
        return cls(
            training=tuple(prompt for prompt in _first_of_each_name(training) if prompt.id not in names),
            held_out=measured,
            notes=tuple(notes),
        )


def _first_of_each_name(prompts: Iterable[Prompt[Any]]) -> tuple[Prompt[Any], ...]:
    first: dict[str, Prompt[Any]] = {}
    for prompt in prompts:
        first.setdefault(prompt.id, prompt)
    return tuple(first.values())
