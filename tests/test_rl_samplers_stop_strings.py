"""Stop strings, against a search through the decoded text after every token."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from rl.config import parse_config
from rl.errors import UsageError
from rl.models.policy import Policy
from rl.samplers.config import RolloutConfig
from rl.samplers.rollout import Batch
from rl.samplers.stop_strings import StopStrings
from rl.samplers.torch_sampler import TorchSampler
from rl.tasks.protocol import Prompt
from tests.amounts import some_of
from tests.worlds import tiny_policy

PROMPTS = tuple(Prompt(id=text, text=text, difficulty="", problem=None) for text in ("a", "abba", "ba b"))


@pytest.fixture(scope="module")
def characters() -> Policy:
    return tiny_policy("ab \n", context=64, initializer_range=0.5)


def byte_level(blank: bool) -> Policy:
    """A policy whose tokens are pieces of words, and bytes of a character: a stop string may begin and end inside one.

    With ``blank`` words carry a blank that the decoder drops at the start of a text, as in many older tokenizers.
    """
    tokenizer = Tokenizer(models.BPE())
    if blank:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.decoder = decoders.Metaspace()  # pyright: ignore[reportAttributeAccessIssue]
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer: Any = trainers.BpeTrainer(vocab_size=40, special_tokens=["<pad>", "<end>"])
    tokenizer.train_from_iterator(["ab ba abba\n\nQ: b; é ab. ba, " * 5], trainer)
    shape = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size() + 4,  # more rows than tokens, as in many checkpoints
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(shape, attn_implementation="eager")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    return Policy(model=model.eval(), tokenizer=fast)


def sample(policy: Policy, stop: tuple[str, ...], *, group_size: int = 40, seed: int = 0) -> Batch:
    return TorchSampler(policy, stop=stop).sample(
        PROMPTS, group_size=group_size, temperature=1.0, max_new_tokens=20, seed=seed
    )


def check_every_token(policy: Policy, batch: Batch, stop: tuple[str, ...]) -> set[str]:
    """The definition, checked on every prefix of every response; how the responses ended."""
    ways = set()
    for group in batch.groups:
        for completion in group.completions:
            *before, last = [list(completion.tokens[:n]) for n in range(1, len(completion.tokens) + 1)]
            assert not any(string in text for text in policy.decode(before) for string in stop)
            (text,) = policy.decode([last])
            starts = [text.find(string) for string in stop if string in text]
            assert len(completion.log_probs) == len(completion.tokens)
            if completion.tokens[-1] in policy.end_tokens:
                ways.add("end token")
                assert completion.finished
                assert completion.text == (policy.decode([last[:-1]])[0] if before else "")
            elif starts:
                ways.add("stop string")
                assert completion.finished
                assert completion.text == text[: min(starts)]
            else:
                ways.add("length")
                assert not completion.finished
                assert len(completion.tokens) == 20
                assert completion.text == text
    return ways


@pytest.mark.parametrize("stop", [("\n",), ("ab",), ("bab", "\n\n"), ("a",), ("b a", " ")], ids=repr)
def test_responses_end_where_a_stop_string_is_complete(characters: Policy, stop: tuple[str, ...]) -> None:
    assert check_every_token(characters, sample(characters, stop), stop) >= {"end token", "stop string"}


@pytest.mark.slow
@some_of("blank", [False, True], 1, ids=["bytes", "blanks"])
@pytest.mark.parametrize("stop", [("\n", "."), ("b",), ("a ",), ("é",), (": b", "ba"), (" b", ".")], ids=repr)
def test_a_stop_string_may_begin_and_end_inside_a_token(blank: bool, stop: tuple[str, ...]) -> None:
    policy = byte_level(blank)
    assert "stop string" in check_every_token(policy, sample(policy, stop), stop)


def test_a_character_in_two_tokens_completes_a_stop_string() -> None:
    policy = byte_level(False)
    token = policy.tokenizer.get_vocab()
    first, second = token["Ã"], token["©"]  # how the byte-level alphabet writes the two bytes of é
    responses = torch.tensor([[token["a"], first, second], [first, second, token["a"]], [second, first, first]])
    assert StopStrings(policy, ("é",)).completed(responses).tolist() == [True, False, False]


def test_without_stop_strings_nothing_changes(characters: Policy) -> None:
    plain = TorchSampler(characters).sample(PROMPTS, group_size=40, temperature=1.0, max_new_tokens=20, seed=0)
    assert sample(characters, ()) == plain
    assert sample(characters, ("never",)) == plain


def test_other_responses_are_not_disturbed_in_distribution(characters: Policy) -> None:
    """The first token is drawn before anything can stop: it is the same with and without stop strings."""
    stopped, plain = sample(characters, ("a",)), sample(characters, ())
    for one, other in zip(stopped.groups, plain.groups, strict=True):
        assert [c.tokens[0] for c in one.completions] == [c.tokens[0] for c in other.completions]


def test_the_configuration_takes_stop_strings() -> None:
    task = {"name": "addition", "digits": {"1": 1}}
    assert RolloutConfig().stop == ()
    assert parse_config({"task": task, "rollout": {"stop": ["\n", "Q:"]}}).rollout.stop == ("\n", "Q:")
    with pytest.raises(UsageError, match=r"'rollout\.stop\.0' is '': "):
        parse_config({"task": task, "rollout": {"stop": [""]}})


@pytest.mark.slow
@pytest.mark.parametrize("stop", [("ab",), ("bab", "\n\n"), ("b a", " ")], ids=repr)
def test_a_stop_string_can_belong_to_the_response(characters: Policy, stop: tuple[str, ...]) -> None:
    options = {"group_size": 40, "temperature": 1.0, "max_new_tokens": 20, "seed": 0}
    without, included = (
        TorchSampler(characters, stop=stop, include_stop=include).sample(PROMPTS, **options)
        for include in (False, True)
    )
    ended = 0
    for first, second in zip(without.groups, included.groups, strict=True):
        for cut, whole in zip(first.completions, second.completions, strict=True):
            assert (cut.tokens, cut.log_probs, cut.finished) == (whole.tokens, whole.log_probs, whole.finished)
            if whole.text != cut.text:
                ended += 1
                assert whole.text[len(cut.text) :] in stop
    assert ended


def test_the_stop_string_that_was_complete_first_ends_the_text(characters: Policy) -> None:
    assert StopStrings(characters, ("abb", "ab"), include=True).ended("b abba") == "b ab"
    assert StopStrings(characters, ("abb", "ab")).ended("b abba") == "b "
