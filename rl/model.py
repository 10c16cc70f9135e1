"""The policy: a small Llama and its character tokenizer, in the form that Hugging Face loads.

A folder written by `save_policy` opens with ``AutoModelForCausalLM.from_pretrained`` and
``AutoTokenizer.from_pretrained``; `load_policy` reads any such folder, whoever wrote it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from rl.config import ModelConfig
from rl.errors import UsageError

# A bar over the one file of a checkpoint tells nobody anything, and would tear the display of a run.
disable_progress_bar()

PAD = "<pad>"
END = "<end>"

# Plain matrix products: for sequences of a few dozen tokens 10 % faster on a CPU than the fused kernel.
ATTENTION = "eager"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A causal language model and its tokenizer.

    Attributes
    ----------
    model
        Any decoder of transformers with rotary or learned positions that are given explicitly.
    tokenizer
        Has an end token and a padding token.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    @property
    def end_token(self) -> int:
        """Id of the token that ends a response."""
        return self.tokenizer.get_vocab()[str(self.tokenizer.eos_token)]

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a prompt or of the text of a response, without special tokens."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, responses: list[list[int]]) -> list[str]:
        """Texts of responses; a special token shows under its name, so that no verifier overlooks it."""
        return self.tokenizer.batch_decode(responses, skip_special_tokens=False)

    def can_write(self, text: str) -> bool:
        """Whether the tokenizer gives back ``text`` unchanged."""
        try:
            return self.decode([list(self.encode(text))]) == [text]
        except Exception:  # tokenizers raises the base class for a character it has no token for
            return False

    def token_log_probs(
        self,
        prompts: Sequence[Sequence[int]],
        owner: Sequence[int],
        responses: Sequence[Sequence[int]],
        *,
        temperature: float = 1.0,
    ) -> Tensor:
        """Log-probability of every token of some responses, with gradient.

        Each prompt is computed once, however many responses it has.

        Parameters
        ----------
        prompts
            P sequences of token ids, each of length ≥ 1.
        owner
            For each response the index of its prompt, length R.
        responses
            R sequences of token ids, each of length ≥ 1, end tokens included.
        temperature
            > 0; logits are divided by it.

        Returns
        -------
        torch.Tensor
            Shape (R, longest response), zero after the end of a response.
        """
        prefix = Prefix.read(self.model, prompts)
        prefix.select(torch.tensor(owner))
        longest = max(len(response) for response in responses)
        tokens = torch.tensor([[*response, *[0] * (longest - len(response))] for response in responses])
        written = torch.tensor([[1.0] * len(response) + [0.0] * (longest - len(response)) for response in responses])
        logits = prefix.logits.unsqueeze(1)
        if longest > 1:
            # Padding stands on the right, so no token of a response can see it.
            logits = torch.cat([logits, prefix.extend(tokens[:, :-1])], dim=1)
        log_probs = torch.log_softmax(logits / temperature, dim=-1)
        return log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) * written


class Prefix:
    """Sequences that the model has read, kept as a key/value cache that grows and whose rows can be picked.

    Attributes
    ----------
    logits
        Shape (rows, vocabulary), for the token that follows each sequence.
    """

    def __init__(self, model: PreTrainedModel, cache: DynamicCache, logits: Tensor, seen: Tensor, position: Tensor):
        self._model = model
        self._cache = cache
        self._seen = seen  # (rows, length), 1 where the cache holds a token and 0 where it holds padding
        self._position = position  # (rows, 1), of the last token read, counted without padding
        self.logits = logits

    @classmethod
    def read(cls, model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> "Prefix":
        """Read P sequences of length ≥ 1, padded on the left so that all of them end in the same column."""
        longest = max(len(sequence) for sequence in sequences)
        tokens = torch.tensor([[*[0] * (longest - len(sequence)), *sequence] for sequence in sequences])
        seen = torch.tensor([[0] * (longest - len(sequence)) + [1] * len(sequence) for sequence in sequences])
        positions = (seen.cumsum(dim=1) - 1).clamp(min=0)
        cache = DynamicCache(config=model.config)
        logits = model(
            input_ids=tokens,
            attention_mask=seen,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return cls(model, cache, logits, seen, positions[:, -1:])

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be named many times, or not at all."""
        self._cache.batch_select_indices(rows)
        self._seen = self._seen[rows]
        self._position = self._position[rows]
        self.logits = self.logits[rows]

    def extend(self, tokens: Tensor) -> Tensor:
        """Read more tokens, shape (rows, n), and return the logits after each, shape (rows, n, vocabulary)."""
        count = tokens.shape[1]
        self._seen = torch.cat([self._seen, self._seen.new_ones(tokens.shape)], dim=1)
        positions = self._position + torch.arange(1, count + 1)
        logits = self._model(
            input_ids=tokens,
            attention_mask=self._seen,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        ).logits
        self._position = positions[:, -1:]
        self.logits = logits[:, -1]
        return logits


def new_policy(config: ModelConfig, alphabet: str, *, seed: int) -> Policy:
    """A policy with random weights whose tokens are the characters of ``alphabet``.

    Torch's global generator is left as it was found.
    """
    vocabulary = {token: number for number, token in enumerate((PAD, END, *alphabet))}
    characters = Tokenizer(WordLevel(vocabulary))
    characters.pre_tokenizer = Split(Regex(r"[\s\S]"), behavior="isolated")
    characters.decoder = Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    llama = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=config.context,
        initializer_range=config.initializer_range,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=vocabulary[END],
        pad_token_id=vocabulary[PAD],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(llama, attn_implementation=ATTENTION)
    return Policy(model=model.eval(), tokenizer=tokenizer)


def save_policy(policy: Policy, folder: Path) -> None:
    """Write weights (safetensors), configuration and tokenizer into ``folder``."""
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


def load_policy(folder: Path) -> Policy:
    """Read a policy from a local folder.

    Raises
    ------
    UsageError
        If the folder does not hold a causal language model in safetensors with a tokenizer that has an end token.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(f"model {str(folder)!r} is not a folder with a config.json and model.safetensors")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, attn_implementation=ATTENTION
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except SafetensorError:
        raise  # damaged weights: the command says so
    except Exception as error:  # transformers raises whatever a missing or garbled file leads to
        reason = " ".join(str(error).split())
        raise UsageError(f"model {str(folder)!r} cannot be read: {reason}") from error
    if tokenizer.eos_token is None:
        raise UsageError(f"model {str(folder)!r} has a tokenizer without an end token")
    return Policy(model=model.eval(), tokenizer=tokenizer)
