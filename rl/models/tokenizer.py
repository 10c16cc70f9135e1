"""What is asked of a model's tokenizer, also before the model is read: prompts as tokens, and what it can write."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rl.errors import UsageError
from rl.models.start import reading


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Read the tokenizer of a model from a local folder.

    Raises
    ------
    UsageError
        If there is none, it cannot be read, or it has no end token.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(f"model {str(folder)!r} is not a folder with a config.json and model.safetensors")
    with reading(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if tokenizer.eos_token is None:
        raise UsageError(f"model {str(folder)!r} has a tokenizer without an end token")
    return tokenizer


def encode_prompt(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[int, ...]:
    """Token ids of a prompt: with the token that the tokenizer begins a text with, unless the text names it.

    Raises
    ------
    UsageError
        If the tokenizer has no token for a character.
    """
    first = tokenizer.encode("")[:1]
    begin = tuple(first) if first == [tokenizer.bos_token_id] else ()
    try:
        tokens = tuple(tokenizer.encode(text, add_special_tokens=False))
    except Exception as error:  # tokenizers raises the base class for a character it has no token for
        raise UsageError(f"the start model's tokenizer lacks a character of the prompt {text[:60]!r}") from error
    return tokens if tokens[: len(begin)] == begin else (*begin, *tokens)


def can_write(tokenizer: PreTrainedTokenizerFast, text: str) -> bool:
    """Whether the tokenizer gives back ``text`` unchanged."""
    try:
        tokens = tokenizer.encode(text, add_special_tokens=False)
        return tokenizer.decode(tokens, skip_special_tokens=False) == text
    except Exception:  # tokenizers raises the base class for a character it has no token for
        return False
