"""The records that travel through the loop, from the sampler to the loss, and what a sampler is.

Nothing here knows a tensor library: a sampler that runs in another process can hand over the same records, as JSON.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rl.tasks.protocol import Prompt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

# Of each group the prompt's tokens, and of each response its tokens, their log-probabilities, its text and whether the
# policy has ended it.
Drawn = list[tuple[list[int], list[tuple[list[int], list[float], str, bool]]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One response of the policy.

    Attributes
    ----------
    tokens
        Sampled token ids, length 1..max_new_tokens, the end token included when there is one.
    log_probs
        Natural logarithm of the probability with which each token was drawn, same length as ``tokens``, ≤ 0; at
        temperature T the probability is that of the logits divided by T, at temperature 0 it is 1.
    text
        The response without its end token, or what stands before the stop string that ended it, with it if the run asks
        for that; any other special token in it shows under its name.
    finished
        Whether the policy ended the response, by its end token or by a stop string, rather than the length limit.
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    text: str
    finished: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """M ≥ 1 independent responses of the policy to one prompt, which has at least one token."""

    prompt: Prompt[Any]
    prompt_tokens: tuple[int, ...]
    completions: tuple[Completion, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The groups of one step, P prompts with M responses each; P ≥ 1 when sampled, 0 if no group of a step is kept."""

    groups: tuple[Group, ...]

    @classmethod
    def of(
        cls, prompts: Sequence[Prompt[Any]], prompt_tokens: Sequence[tuple[int, ...]], completions: Sequence[Completion]
    ) -> "Batch":
        """From P prompts and P·M completions in their order."""
        size = len(completions) // len(prompts)
        return cls(
            groups=tuple(
                Group(prompt=prompt, prompt_tokens=tokens, completions=tuple(completions[i * size : (i + 1) * size]))
                for i, (prompt, tokens) in enumerate(zip(prompts, prompt_tokens, strict=True))
            )
        )

    @classmethod
    def from_json(cls, prompts: Sequence[Prompt[Any]], drawn: Drawn) -> "Batch":
        """The batch of which `to_json` has told, with its prompts."""
        completions = [
            Completion(tokens=tuple(tokens), log_probs=tuple(log_probs), text=text, finished=finished)
            for _, responses in drawn
            for tokens, log_probs, text, finished in responses
        ]
        return cls.of(prompts, [tuple(tokens) for tokens, _ in drawn], completions)

    def to_json(self) -> Drawn:
        """All but the prompts, to the last bit; those of a task of the user's own may be anything."""
        return [
            ([*group.prompt_tokens], [([*c.tokens], [*c.log_probs], c.text, c.finished) for c in group.completions])
            for group in self.groups
        ]

    @property
    def responses(self) -> int:
        """Number of responses, P·M."""
        return sum(len(group.completions) for group in self.groups)

    @property
    def tokens(self) -> int:
        """Number of sampled tokens, end tokens included."""
        return sum(len(completion.tokens) for group in self.groups for completion in group.completions)

    def mean_negative_log_prob(self) -> float:
        """Mean of -log p over all sampled tokens, in nats: an unbiased estimate of the policy's entropy per token.

        "Per token" means over the states the policy visits: a token of a long response counts as much as one of a
        short response.
        """
        total = sum(sum(completion.log_probs) for group in self.groups for completion in group.completions)
        return -total / self.tokens

    def share_finished(self) -> float:
        """Share of responses that ended themselves, in [0, 1]."""
        finished = sum(completion.finished for group in self.groups for completion in group.completions)
        return finished / self.responses


class Sampler(Protocol):
    """Something that samples responses from a copy of the policy.

    The copy is brought up to date by `publish` only, whether it lives in this process or in another one.

    A response ends at the first of the policy's end tokens. A sampler is made with the stop strings of the run as well
    (``rollout.stop``, none by default): a response ends at the first token after which one of them stands in its
    decoded text, wherever in a token the stop string begins or ends. Up to and including that token the tokens are the
    response: they are what the policy drew, so they are trained on and their log-probabilities are recorded. Its text
    is cut before the earliest stop string, or behind it with ``rollout.include_stop``, and it counts as finished.
    """

    @property
    def ends(self) -> Sequence[str]:
        """What ends a response, as a text shows it: end tokens and stop strings."""
        ...

    @property
    def engine(self) -> str | None:
        """What computes, where it is not the trained model's own code: recorded with the run."""

    def publish(self, weights: "Mapping[str, Tensor]") -> None:
        """Take over the weights of the trained model, all of its state dictionary, before the next `sample`."""

    def rest(self) -> None:
        """Give memory away, if it can, until the next `publish`: nothing is sampled before."""

    def sample(
        self,
        prompts: Sequence[Prompt[Any]],
        *,
        group_size: int,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        first: int = 0,
    ) -> Batch:
        """Sample ``group_size`` independent responses to each prompt; a pure function of weights and arguments.

        Parameters
        ----------
        prompts
            P ≥ 1 prompts.
        group_size
            M ≥ 1.
        temperature
            ≥ 0; 0 takes the most probable token each time.
        max_new_tokens
            ≥ 1; a response that has not ended by then is cut.
        seed
            In [0, 2**63).
        first
            Where ``prompts`` are a part of more, how many stand before them; another part gets other responses.
        """
        ...
