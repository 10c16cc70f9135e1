"""The policy: a small Llama and its character tokenizer, in the form that Hugging Face loads.

A folder written by `save_policy` opens with ``AutoModelForCausalLM.from_pretrained`` and
``AutoTokenizer.from_pretrained``; `load_policy` reads any such folder, whoever wrote it.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.logging import disable_progress_bar

from rl.errors import UsageError, one_line
from rl.models.agreement import (
    FINE,
    PLAIN,
    TYPICAL,
    attention_gap,
    checkpointing_gap,
    layers_checkpointed,
    packed_gap,
    prefix_gap,
    widened,
)
from rl.models.config import ModelConfig, PolicyConfig
from rl.models.lora import Adapter, MergedWeights, save_adapter
from rl.models.output_layer import OutputLayer, chosen_log_probs
from rl.models.packing import Layout, Packed, is_packed, layout_of, pack, sent
from rl.models.prefix import said
from rl.models.start import check_model, parameters_in, reading, weight_files
from rl.models.tokenizer import encode_prompt, load_tokenizer

# A bar over the one file of a checkpoint tells nobody anything, and would tear the display of a run.
disable_progress_bar()

PAD = "<pad>"
END = "<end>"

# Plain matrix products: for sequences of a few dozen tokens 10 % faster on a CPU than the fused kernel.
ATTENTION_ON_CPU = PLAIN
ATTENTION_ELSEWHERE = "sdpa"

# Parameters that a model may lack, beside as many as it has, before it is refused without naming them.
MOST_ABSENT = 2**20

# Where Linux bounds the memory of a container, in version 2 and 1: folder, limit and use.
CONTROL_GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)

# Logits at a time that are the fastest; see `rl.models.config.PolicyConfig`.
LOGITS_ON_CPU, LOGITS_ELSEWHERE = 2**23, 2**28


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A causal language model and its tokenizer.

    Attributes
    ----------
    model
        Any decoder of transformers with rotary or learned positions that are given explicitly.
    tokenizer
        Has an end token; a padding token is not needed.
    settings
        How the model is computed.
    adapter
        With LoRA what the layers of ``model`` then hold; else None.
    notes
        Sentences that the user of a run should see.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    settings: PolicyConfig = field(default_factory=PolicyConfig)
    adapter: Adapter | None = None
    notes: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the model is, and where its inputs have to be."""
        return self.model.device

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """Ids of the tokens that end a response: the tokenizer's own, then what else ``generation_config.json`` lists.

        Models that converse often have several, and write one that is not the tokenizer's.
        """
        own = self.tokenizer.convert_tokens_to_ids(str(self.tokenizer.eos_token))
        listed = getattr(self.model.generation_config, "eos_token_id", None)
        others = listed if isinstance(listed, list) else [] if listed is None else [listed]
        # A token without a logit is never written, and vLLM refuses it.
        can_be_written = range(self.model.config.get_text_config().vocab_size)
        return tuple(dict.fromkeys([own, *(token for token in others if token in can_be_written)]))  # type: ignore[list-item]

    @property
    def end_names(self) -> list[str]:
        """The tokens of `end_tokens` as a text shows them."""
        return self.decode([[token] for token in self.end_tokens])

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt with its response; None if the model knows no limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def packed(self) -> bool:
        """Whether learning needs no padding and reads a prompt once; see `rl.models.packing`."""
        return is_packed(self.model)

    @property
    def layout(self) -> Layout:
        """What counts as a token of a micro-batch; see `rl.learning.loss.micro_batches`."""
        dtype = torch.bfloat16 if self.settings.precision == "bf16" else self.model.dtype
        return layout_of(self.model, dtype, lora=self.adapter is not None)

    @property
    def logits_at_once(self) -> int:
        """Bound on the logits that exist at a time while learning."""
        if self.settings.logits_at_once == "auto":
            return LOGITS_ON_CPU if self.device.type == "cpu" else LOGITS_ELSEWHERE
        return self.settings.logits_at_once

    @cached_property
    def output_layer(self) -> OutputLayer:
        """The model's output layer."""
        return OutputLayer(self.model)

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text, without special tokens but those that it names."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def encode_prompt(self, text: str) -> tuple[int, ...]:
        """Token ids of a prompt: with the token that the tokenizer begins a text with, unless the text names it."""
        return encode_prompt(self.tokenizer, text)

    def decode(self, responses: list[list[int]]) -> list[str]:
        """Texts of responses; a special token shows under its name, so that no verifier overlooks it."""
        return self.tokenizer.batch_decode(responses, skip_special_tokens=False)

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that are trained, by name: all, or with LoRA those of the adapter."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def published_weights(self) -> Mapping[str, Tensor]:
        """All weights of the model as it computes now, under their Hugging Face names, for a sampler to take over.

        The output layer is among them also where it is tied to the embedding. An adapter is merged in, in float32: a
        sampler that rounds them to bfloat16 loses updates below half a percent of a weight.
        """
        if self.adapter is None:
            return self.model.state_dict()
        return MergedWeights(self.model)

    def with_adapter(self, adapter: Adapter) -> "Policy":
        """The policy whose layers hold an adapter, which was made for its model."""
        return replace(self, model=adapter.model, adapter=adapter)

    def without_weights(self) -> "Policy":
        """A copy whose weights have a shape and no values."""
        memo: dict[int, object] = {
            id(each): torch.nn.Parameter(each.to("meta"), requires_grad=each.requires_grad)
            for each in self.model.parameters()
        }
        if self.adapter is None:
            return replace(self, model=copy.deepcopy(self.model, memo))
        wrapped = copy.deepcopy(self.adapter.wrapped, memo)
        return replace(self, model=wrapped.base_model.model, adapter=replace(self.adapter, wrapped=wrapped))

    def filled(self, weights: Mapping[str, Tensor], device: torch.device) -> "Policy":
        """This policy, made `without_weights`, with weights on a device that are nobody else's."""
        self.model.load_state_dict(weights, assign=True)
        self.model.tie_weights()
        self.model.to(device)  # type: ignore[arg-type]  # what is no weight, and in no dictionary
        return self

    def without_adapter(self, device: torch.device | None = None) -> "Policy":
        """A copy whose model is one of transformers and nothing else, an adapter merged in, in float32.

        By default it is where the policy is. Of what is merged one weight exists beside those of the copy.
        """
        place, plain, weights = device or self.device, self.without_weights(), self.published_weights()
        if plain.adapter is not None:
            plain = replace(plain, model=plain.adapter.wrapped.unload().float(), adapter=None)
        return plain.filled({name: weights[name].to(place, copy=True) for name in weights}, place)

    def autocast(self) -> AbstractContextManager[object]:
        """The precision to compute in, for the length of a ``with`` block."""
        return computing(self.settings, self.device)

    def token_log_probs(
        self,
        prompts: Sequence[Sequence[int]],
        owner: Sequence[int],
        responses: Sequence[Sequence[int]],
        *,
        temperature: float = 1.0,
    ) -> Tensor:
        """Log-probability of every token of some responses, with gradient.

        Without padding, and each prompt is computed once, however many responses it has; see `rl.models.packing`. The
        few models that cannot be computed so are given whole texts with padding.

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
        apart = self.output_layer.separable
        model = self.output_layer.decoder if apart else self.model
        again = layers_checkpointed(model) if self.settings.gradient_checkpointing else nullcontext()
        packed: Packed | None = None
        with self.autocast(), again:
            if self.packed:
                packed = Packed(prompts, owner, responses, device=self.device, layout=self.layout)
                before, tokens = packed.read(model)[packed.before], packed.after
            else:
                before = _read_whole(model, prompts, owner, responses)
                tokens = sent(torch.tensor([token for response in responses for token in response]), self.device)
            if apart:
                log_probs = self.output_layer.log_probs(
                    before, tokens, temperature=temperature, at_once=self.logits_at_once
                )
            else:
                log_probs = chosen_log_probs(before, tokens, temperature)
        if packed is not None:
            log_probs = packed.answers(log_probs)
        lengths = sent(torch.tensor([len(response) for response in responses]), self.device)
        longest = max(len(response) for response in responses)
        written = torch.arange(longest, device=self.device) < lengths.unsqueeze(1)
        return log_probs.new_zeros(written.shape).masked_scatter(written, log_probs)


def _read_whole(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], owner: Sequence[int], responses: Sequence[Sequence[int]]
) -> Tensor:
    """What a model that cannot be packed says before each token of the responses: a prompt to each, with padding.

    Padding stands on the right, where no token that counts sees it and every token of it sees something: a kernel may
    answer not-a-number to a token that sees nothing, whose gradient then is not 0.
    """
    before = [len(prompts[index]) - 1 for index in owner]
    rows = [[*prompts[index], *response[:-1]] for index, response in zip(owner, responses, strict=True)]
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=model.device)
    output = said(model(input_ids=tokens, use_cache=False))
    place = torch.arange(longest, device=model.device)
    first, last = (
        torch.tensor(each, device=model.device).unsqueeze(1) for each in (before, [len(r) - 1 for r in rows])
    )
    return output[(place >= first) & (place <= last)]


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
        model = AutoModelForCausalLM.from_config(llama, attn_implementation=ATTENTION_ON_CPU)
    pack(model)
    return Policy(model=model.eval(), tokenizer=tokenizer)


def save_policy(policy: Policy, folder: Path, *, merge: bool = True) -> None:
    """Write weights (safetensors), configuration and tokenizer into ``folder``.

    An adapter is merged into the weights. With ``merge = False`` it is written instead, with the name of its model.
    """
    if policy.adapter is None:
        policy.model.save_pretrained(folder)
    elif merge:
        # Not where it is trained: there an engine may hold what it does not take.
        policy.without_adapter(torch.device("cpu")).model.save_pretrained(folder)
    else:
        save_adapter(policy.adapter, folder)
    policy.tokenizer.save_pretrained(folder)


def load_policy(
    folder: Path,
    settings: PolicyConfig | None = None,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Policy:
    """Read a policy from a local folder.

    Parameters
    ----------
    settings
        How the model is to be computed; by default `PolicyConfig()`.
    device
        Where it is to be; by default the CPU.
    dtype
        Of the weights in memory.

    Raises
    ------
    UsageError
        If the folder does not hold a causal language model in safetensors with a tokenizer that has an end token, or
        the model cannot be computed as ``settings`` ask.
    """
    device = device or torch.device("cpu")
    settings, notes = settled(settings or PolicyConfig(), device)
    check_model(folder)
    attention = settings.attention
    if attention == "auto":
        attention = ATTENTION_ON_CPU if device.type == "cpu" else ATTENTION_ELSEWHERE
    with reading(folder):
        _check_size(folder)
        model, told = AutoModelForCausalLM.from_pretrained(
            folder,
            trust_remote_code=False,  # else it asks, and runs what the folder holds
            local_files_only=True,
            use_safetensors=True,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,  # makes it two, which the types do not say
        )  # type: ignore[misc]
    if absent := sorted(told["missing_keys"]):
        # Transformers would draw them at random.
        raise UsageError(
            f"model {str(folder)!r} lacks {len(absent)} of the weights that config.json asks for, first {absent[0]!r}"
        )
    if unknown := sorted(told["unexpected_keys"]):
        raise UsageError(
            f"model {str(folder)!r} has {len(unknown)} weights that config.json does not ask for, first {unknown[0]!r}"
        )
    tokenizer = load_tokenizer(folder)
    model.eval().to(device)  # type: ignore[arg-type]
    if instead := _agree(model, folder, attention, forced=settings.attention != "auto"):
        notes, settings = notes + instead, settings.model_copy(update={"attention": PLAIN})
    notes += _packs(model, folder, settings)
    if settings.gradient_checkpointing:
        _checkpoint_gradients(model, folder)
    return Policy(model=model, tokenizer=tokenizer, settings=settings, notes=notes)


def settled(settings: PolicyConfig, device: torch.device) -> tuple[PolicyConfig, tuple[str, ...]]:
    """The settings with what ``precision = "auto"`` means on a device, and what the user should know of it."""
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _has_bf16()
    if settings.precision == "auto":
        return settings.model_copy(update={"precision": "bf16" if fast else "fp32"}), ()
    if settings.precision == "bf16" and not fast:
        told = (
            'policy.precision is "bf16", which this device has no fast arithmetic for: a step takes several times as '
            'long as with "fp32" or "auto"'
        )
        return settings, (told,)
    return settings, ()


def _has_bf16() -> bool:
    """Whether products in bfloat16 are at least as fast as in float32 on this processor."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _agree(model: PreTrainedModel, folder: Path, attention: str, *, forced: bool) -> tuple[str, ...]:
    """Hold the ways of computing this model to each other; where fused attention fails, "auto" takes the plain kind."""
    notes: tuple[str, ...] = ()
    with widened(model):
        gap = attention_gap(model, attention)
    missed = f"is off by {gap:.2g} nats a token from {PLAIN!r}" if gap > FINE else ""
    if attention != PLAIN and is_capped(model.config):
        missed = "leaves out the model's attn_logit_softcapping"  # which may not show on tokens drawn at random
    if missed:
        said = f"model {str(folder)!r}: attention {attention!r} {missed}"
        if forced:
            raise UsageError(f'{said}; set policy.attention = "{PLAIN}"')
        model.set_attn_implementation(PLAIN)
        notes = (f"{said}: {PLAIN!r} is used instead",)
    try:
        with widened(model):
            gap, reason = prefix_gap(model), ""
    except Exception as error:  # a cache of another kind raises whatever it raises
        gap, reason = float("inf"), f" ({one_line(error)[:200]})"
    if gap > FINE:
        raise UsageError(
            f"model {str(folder)!r} cannot be trained: responses share what was read of their prompt, and it keeps "
            f"more than keys and values{reason or f', off by {gap:.2g} nats a token'}"
        )
    return notes


def is_capped(about: PreTrainedConfig) -> bool:
    """Whether a model's attention has a cap on its logits, which only plain products know."""
    return getattr(about.get_text_config(), "attn_logit_softcapping", None) is not None


def _packs(model: PreTrainedModel, folder: Path, settings: PolicyConfig) -> tuple[str, ...]:
    """Pack a model if it is then computed as before; else say that it is not."""
    rough = settings.precision == "bf16"
    try:
        with computing(settings, model.device):
            gap = packed_gap(model, typical=rough)
        reason = f"it is off by {gap:.2g} nats a token"
    except Exception as error:  # attention that cannot be exchanged raises whatever it raises
        gap, reason = float("inf"), one_line(error)[:200]
    if gap <= (TYPICAL if rough else FINE):
        pack(model)
        return ()
    return (
        f"model {str(folder)!r} cannot learn from packed texts ({reason}): each response has its prompt and padding",
    )


def computing(settings: PolicyConfig, device: torch.device) -> AbstractContextManager[object]:
    """The precision that settings ask for, for the length of a ``with`` block."""
    if settings.precision == "fp32":
        return nullcontext()
    # Rounded weights are kept for a second use, which layers that are computed again do not have.
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=not settings.gradient_checkpointing)


def _check_size(folder: Path) -> None:
    """Refuse a model that is much larger than its files, before there is memory for it.

    Where it lacks some weights, transformers says which, and takes memory for them: for no more than there are here.
    """
    if not all(file.is_file() for file in weight_files(folder)):
        return  # transformers says what is missing
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        asked = AutoModelForCausalLM.from_config(config, trust_remote_code=False).num_parameters()
    held = parameters_in(folder)
    if asked > 2 * held + MOST_ABSENT:
        raise UsageError(f"model {str(folder)!r} asks for {asked:,} parameters, and its weights hold {held:,}")


def choose_device(name: str, *, key: str = "device") -> torch.device:
    """The device that a key of the configuration names; "auto" is the first GPU if there is one.

    Raises
    ------
    UsageError
        If it is a GPU that this machine does not have.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UsageError(
            f"config key {key!r} is {name!r}, and torch finds {count} GPUs here: use one of these, or 'cpu'"
        )
    return device


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process has or can have on a device; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    try:
        found = re.search(r"^MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return min([int(found[1]) * 2**10, *_left_in_container()]) if found else None


def _left_in_container() -> list[int]:
    """Bytes that the control group of this process leaves it, if it has a limit; what it holds of files can go."""
    for folder, limit, used in CONTROL_GROUPS:
        with suppress(OSError, ValueError):  # there is none, or its limit is "max"
            free = int((folder / limit).read_text()) - int((folder / used).read_text())
            held = re.search(r"^(?:total_)?inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
            return [free + (int(held[1]) if held else 0)]
    return []


def _checkpoint_gradients(model: PreTrainedModel, folder: Path) -> None:
    """Switch it on, or say why this model cannot."""
    if not any(isinstance(module, GradientCheckpointingLayer) for module in model.modules()):
        raise UsageError(f"policy.gradient_checkpointing: model {str(folder)!r} has no layers that support it")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.disable_input_require_grads()  # for the other kind of checkpoint; the hook would spoil frozen embeddings
    if (gap := checkpointing_gap(model)) > FINE:
        raise UsageError(
            f"policy.gradient_checkpointing: the layers of model {str(folder)!r} apply dropout, which differs between "
            f"a computation and its repetition ({gap:.2g} nats a token): set it to 0 in its config.json"
        )
