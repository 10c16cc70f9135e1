"""Sampling with torch, in this process, through the model's own layers.

What responses share is computed once: their prompt, and every beginning that several of a group have in common. A
response leaves the batch when it has ended, as soon as an eighth of the rows would. Models of the kind that
`rl.models.fused` knows take fewer operations a token than in transformers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rl.errors import UsageError
from rl.models.agreement import FINE, continuation_gap
from rl.models.fused import Continuations
from rl.models.packing import unpack
from rl.models.policy import Policy
from rl.models.prefix import Prefix, fits
from rl.samplers.draw import draw
from rl.samplers.rollout import Batch, Completion
from rl.samplers.stop_strings import StopStrings
from rl.seeds import derive_seed
from rl.tasks.protocol import Prompt

# Share of the rows that go on, at or below which the others are taken out.
CROWDED = 7 / 8


class TorchSampler:
    """A `rl.samplers.rollout.Sampler`, which says what stop strings do, with a copy of the policy of its own."""

    def __init__(self, policy: Policy, *, stop: Sequence[str] = (), include_stop: bool = False) -> None:
        self.engine = None
        self._policy = policy.without_adapter()
        model = self._policy.model
        unpack(model)
        self._fused = fits(model) and continuation_gap(model) <= FINE
        if policy.settings.precision == "bf16":
            _round_linear_layers(model)
        self._stop = StopStrings(self._policy, stop, include=include_stop)
        self._end_tokens = torch.tensor(policy.end_tokens, device=policy.device)
        self.ends = (*policy.end_names, *stop)

    def publish(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the weights of the trained model."""
        # One after the other: of a sharded policy each is gathered when it is looked at.
        for name, own in self._policy.model.state_dict().items():
            own.copy_(weights[name])

    def rest(self) -> None:
        """Its memory is kept."""

    @torch.inference_mode()
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
        """Sample ``group_size`` responses to each prompt; see `rl.samplers.rollout.Sampler.sample`."""
        prompt_tokens = [self._policy.encode_prompt(prompt.text) for prompt in prompts]
        context = self._policy.context
        longest = max(len(sequence) for sequence in prompt_tokens)
        if context is not None and longest + max_new_tokens > context:
            raise UsageError(
                f"a prompt of {longest} tokens and {max_new_tokens} new ones do not fit into the model's context of "
                f"{context}: lower rollout.max_new_tokens or make a model with a larger model.context"
            )
        with self._policy.autocast():
            tokens, log_probs, lengths, stopped = self._decode(
                prompt_tokens,
                group_size=group_size,
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                generator=torch.Generator(self._policy.device).manual_seed(derive_seed(seed, first) if first else seed),
            )
        responses = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
        ended = [response[-1] in self._policy.end_tokens for response in responses]
        texts = self._policy.decode(
            [response[:-1] if at_end else response for response, at_end in zip(responses, ended, strict=True)]
        )
        completions = [
            Completion(
                tokens=tuple(response),
                log_probs=tuple(row[: len(response)]),
                text=(self._stop.ended(text) or "") if at_stop else text,
                finished=at_end or at_stop,
            )
            for response, row, text, at_end, at_stop in zip(
                responses, log_probs.tolist(), texts, ended, stopped.tolist(), strict=True
            )
        ]
        return Batch.of(prompts, prompt_tokens, completions)

    def _decode(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        group_size: int,
        temperature: float,
        max_new_tokens: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens and log-probabilities, shape (P·M, max_new_tokens), lengths and ends at a stop string, shape (P·M,).

        Rows are ordered by prompt; past the end of a response stand end tokens with log-probability 0.
        """
        device = self._policy.device
        rows = len(prompts) * group_size
        tokens = self._end_tokens[0].repeat(rows, max_new_tokens)
        log_probs = torch.zeros((rows, max_new_tokens), device=device)
        lengths = torch.full((rows,), max_new_tokens, device=device)
        stopped = torch.zeros(rows, dtype=torch.bool, device=device)
        model = self._policy.model
        read = Prefix.read(model, prompts)
        begun = Continuations(model, read) if self._fused else read
        going = torch.arange(rows, device=device)  # the responses that have not ended
        place = going // group_size  # the row of each of them: those that have begun alike share one
        for column in range(max_new_tokens):
            chosen, chosen_log_probs = draw(begun.last[place], temperature, generator)
            tokens[going, column] = chosen
            log_probs[going, column] = chosen_log_probs
            ended = torch.isin(chosen, self._end_tokens)
            if self._stop:
                stopped[going] = self._stop.completed(tokens[going, : column + 1]) & ~ended
                ended = ended | stopped[going]
            lengths[going[ended]] = column + 1
            going, place, chosen = (each[~ended] for each in (going, place, chosen))
            if column + 1 == max_new_tokens or not len(going):
                break
            size, vocabulary = begun.last.shape
            branches, branch = torch.unique(place * vocabulary + chosen, return_inverse=True)
            grown_from, added = branches // vocabulary, branches % vocabulary
            if len(branches) <= CROWDED * size or bool((grown_from[1:] == grown_from[:-1]).any()):
                begun.select(grown_from)
                place = branch
            else:  # past the end of a response stands the end token
                added = self._end_tokens[0].repeat(size).index_copy_(0, grown_from, added)
            begun.extend(added.unsqueeze(1))
        return tokens, log_probs, lengths, stopped


def _round_linear_layers(model: PreTrainedModel) -> None:
    """Hold in bfloat16 the weights that autocast rounds to it, or it would do so again for every token."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            # A parameter of its own, also where the output layer is tied to the embedding, which is not rounded.
            layer.weight = torch.nn.Parameter(layer.weight.detach().bfloat16(), requires_grad=False)
