"""Stop strings: where the decoded text of a response first shows one, and the text that it ends."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from rl.models.policy import Policy


class StopStrings:
    """The stop strings of a run, and the tokens that can complete one.

    Parameters
    ----------
    strings
        Each of at least one character; may be none.
    include
        Whether the string that ends a response belongs to its text.
    """

    def __init__(self, policy: Policy, strings: Sequence[str], *, include: bool = False) -> None:
        self._policy = policy
        self._strings = tuple(strings)
        self._include = include

    def __bool__(self) -> bool:
        return bool(self._strings)

    def ended(self, text: str) -> str | None:
        """What the earliest stop string in ``text`` leaves of it; None if there is none.

        Of several that begin at the same place the shortest counts: it was complete first.
        """
        found = [(text.index(string), len(string)) for string in self._strings if string in text]
        if not found:
            return None
        start, length = min(found)
        return text[: start + length] if self._include else text[:start]

    def completed(self, responses: Tensor) -> Tensor:
        """Which responses hold a stop string that their last token has completed.

        Parameters
        ----------
        responses
            Tokens, shape (rows, n), n ≥ 1; without the last of them no response holds a stop string.

        Returns
        -------
        torch.Tensor
            Shape (rows,), bool, on the device of ``responses``.
        """
        completed = torch.zeros(len(responses), dtype=torch.bool)
        rows = self._may_complete[responses[:, -1].cpu()].nonzero().squeeze(1)
        if len(rows):
            texts = self._policy.decode(responses[rows.to(responses.device)].tolist())
            completed[rows] = torch.tensor([self.ended(text) is not None for text in texts])
        return completed.to(responses.device)

    @cached_property
    def _may_complete(self) -> Tensor:
        """For each token whether it may bring the last character of a stop string; shape (vocabulary,), bool.

        Decoding every response after every token would take longer than a small model. A token brings a character if
        that stands in the token's own text, or if the text is empty or has a replacement character, as part of a
        character has, or if the character is a blank, which some tokenizers drop at the start of a text.
        """
        size = self._policy.model.config.vocab_size
        ends = {string[-1] for string in self._strings}
        if " " in ends:
            return torch.ones(size, dtype=torch.bool)
        ends.add("\N{REPLACEMENT CHARACTER}")
        texts = self._policy.decode([[token] for token in range(size)])
        return torch.tensor([not text or not ends.isdisjoint(text) for text in texts])
