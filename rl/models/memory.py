"""The memory of a run, planned from its configuration and the shape of its model before anything is loaded.

A plan says, for one process, how many bytes are taken by what in each phase of a step. What stays (weights, gradients,
AdamW's means, the sampler) follows from the number of parameters. What a backward pass holds is counted token by token
from what transformers' decoder layers keep (`rl.models.activations`), for the longest micro-batch, as if no two texts
began alike. Of two moments the larger counts: the output layer's turn, when all layers hold what they keep, and that of
a layer below it.

A sampler of its own or an engine has its weights and its keys and values besides. An engine that sleeps while the model
learns takes its memory back in the order of a hand-over: first the weights, at last keys and values.

What no shape tells is stated here: `CONTEXT`, `GRAPHS` and `CARDS`. They were not measured by this project.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from rl.config import Config
from rl.errors import UsageError
from rl.hub import is_hub_name, read_hub_name
from rl.models.activations import BF16, FP32, Kept, Widths
from rl.models.config import LoraConfig
from rl.models.output_layer import IN_CACHE
from rl.models.policy import LOGITS_ELSEWHERE, LOGITS_ON_CPU, is_capped, settled
from rl.models.start import check_model, reading

GIB = 2**30

# GiB that torch finds on a card, by the GB it is sold under: the least of several that have it (L4, A100, A100, H200).
CARDS: Mapping[int, float] = {24: 22.0, 40: 39.4, 80: 79.1, 141: 139.8}

# What a process takes of a card before its first tensor, and what the allocator loses to rounding.
CONTEXT = int(1.0 * GIB)
# What several processes take for talking with each other, on top.
TALKING = int(0.5 * GIB)
# CUDA graphs of vLLM, and what else of it stays while it sleeps.
GRAPHS = int(1.0 * GIB)
# Tokens that vLLM reads at once, or the whole context where it is longer.
TOKENS_AT_ONCE = 4096

# Kinds of layers that keep a state of what they have read.
RECURRENT = {"conv", "hybrid", "hybrid_sliding", "linear_attention"}

# Longest prompt where nobody says and the context leaves more room.
PROMPT = 512

# Shapes of models on the hub, for a plan without a network. Names that end in -Base or -Instruct are those without.
QWEN, LLAMA = {"model_type": "qwen2", "vocab_size": 151936}, {"model_type": "llama", "vocab_size": 128256}
QWEN3, SMOLLM = {**QWEN, "model_type": "qwen3", "head_dim": 128}, {"model_type": "llama", "vocab_size": 49152}
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
KNOWN: Mapping[str, tuple[Mapping[str, Any], tuple[int, ...], bool]] = {
    "Qwen/Qwen2.5-0.5B": (QWEN, (896, 4864, 24, 14, 2), True),
    "Qwen/Qwen2.5-1.5B": (QWEN, (1536, 8960, 28, 12, 2), True),
    "Qwen/Qwen2.5-3B": (QWEN, (2048, 11008, 36, 16, 2), True),
    "Qwen/Qwen2.5-7B": ({**QWEN, "vocab_size": 152064}, (3584, 18944, 28, 28, 4), False),
    "Qwen/Qwen3-0.6B": (QWEN3, (1024, 3072, 28, 16, 8), True),
    "Qwen/Qwen3-1.7B": (QWEN3, (2048, 6144, 28, 16, 8), True),
    "Qwen/Qwen3-4B": (QWEN3, (2560, 9728, 36, 32, 8), True),
    "Qwen/Qwen3-8B": (QWEN3, (4096, 12288, 36, 32, 8), False),
    "meta-llama/Llama-3.2-1B": (LLAMA, (2048, 8192, 16, 32, 8), True),
    "meta-llama/Llama-3.2-3B": (LLAMA, (3072, 8192, 28, 24, 8), True),
    "meta-llama/Llama-3.1-8B": (LLAMA, (4096, 14336, 32, 32, 8), False),
    "HuggingFaceTB/SmolLM2-135M": (SMOLLM, (576, 1536, 30, 9, 3), True),
    "HuggingFaceTB/SmolLM2-360M": (SMOLLM, (960, 2560, 32, 15, 5), True),
    "HuggingFaceTB/SmolLM2-1.7B": (SMOLLM, (2048, 8192, 24, 32, 32), True),
}


@dataclass(frozen=True, kw_only=True)
class ModelShape(Widths):
    """What of a decoder decides how much memory it takes.

    Attributes
    ----------
    parameters
        All of them; one that has two places counts once.
    layers, layer
        Number of layers, and parameters of the largest.
    vocabulary
        Number of logits.
    context
        Longest prompt with its response; None without a limit.
    tied
        Whether embedding and output layer have one weight.
    capped
        Whether attention has a cap on its logits, so that it is computed as plain products.
    products
        Name, inputs and outputs of each linear layer but the output layer.
    """

    parameters: int
    layers: int
    layer: int
    vocabulary: int
    context: int | None
    tied: bool
    capped: bool
    products: tuple[tuple[str, int, int], ...]

    @classmethod
    def of(cls, about: PreTrainedConfig) -> "ModelShape":
        """From a configuration of transformers; the model is built without weights."""
        text = about.get_text_config()
        kinds = set(getattr(text, "layer_types", None) or ()) & RECURRENT
        if kinds or not hasattr(text, "num_attention_heads"):
            raise UsageError(
                f"a model of type {about.model_type!r} cannot be trained: responses share what was read of their "
                f"prompt, and it keeps more than keys and values ({', '.join(sorted(kinds)) or 'no attention'})"
            )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(about, trust_remote_code=False)
        blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        output = model.get_output_embeddings()
        products = [
            (name, *(module.weight.shape if isinstance(module, Conv1D) else module.weight.shape[::-1]))
            for name, module in model.named_modules()
            if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not output
        ]
        return cls(
            parameters=model.num_parameters(),
            layers=len(blocks) or text.num_hidden_layers,
            layer=max((sum(map(torch.numel, block.parameters())) for block in blocks), default=0),
            **vars(Widths.of(about)),
            vocabulary=text.vocab_size,
            context=getattr(text, "max_position_embeddings", None),
            tied=bool(about.tie_word_embeddings),
            capped=is_capped(about),
            products=tuple(products),  # type: ignore[arg-type]
        )

    @property
    def outside(self) -> int:
        """Parameters of embedding and output layer, and what else is no layer's."""
        return self.parameters - self.layers * self.layer

    def adapter(self, lora: LoraConfig) -> int:
        """Parameters of an adapter."""
        return lora.rank * sum(
            inputs + outputs
            for name, inputs, outputs in self.products
            if isinstance(lora.targets, str) or any(f".{name}".endswith(f".{target}") for target in lora.targets)
        )


def shape_of(config: Config, *, alphabet: str = "", key: str = "start_model") -> ModelShape:
    """The shape of the model of a run, without a network: from its folder, the hub's cache or `KNOWN`.

    Parameters
    ----------
    alphabet
        Characters of the task, of which a model made from nothing has a token each.
    key
        ``start_model`` or ``kl.reference``.

    Raises
    ------
    UsageError
        If the shape is not known here.
    """
    name = config.start_model if key == "start_model" else config.kl.reference
    if name is None:
        model = config.model
        return ModelShape.of(
            AutoConfig.for_model(
                "llama",
                vocab_size=len(alphabet) + 2,
                hidden_size=model.hidden_size,
                intermediate_size=model.intermediate_size,
                num_hidden_layers=model.layers,
                num_attention_heads=model.heads,
                max_position_embeddings=model.context,
                tie_word_embeddings=True,
            )
        )
    folder = _folder(name, key)
    if folder is None:
        known = re.sub("-(Base|Instruct)$", "", read_hub_name(name, key=key)[0])
        if known in KNOWN:
            family, sizes, tied = KNOWN[known]
            sizes = {**family, **dict(zip(SIZES, sizes, strict=True)), "tie_word_embeddings": tied}
            return ModelShape.of(AutoConfig.for_model(**sizes))
    elif (folder / "config.json").is_file():
        return shape_in(folder)
    raise UsageError(f"it cannot be planned: the shape of {key} {str(name)!r} is not known here")


def shape_in(folder: Path) -> ModelShape:
    """The shape of the model in a folder.

    Raises
    ------
    UsageError
        If its config.json cannot be read, or `rl.models.start.check_model` refuses it.
    """
    check_model(folder)
    with reading(folder):
        return ModelShape.of(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))


def _folder(name: Path, key: str) -> Path | None:
    """Where a model's config.json may be; None for one of the hub that its cache does not have."""
    if not is_hub_name(name):
        return name
    from huggingface_hub import try_to_load_from_cache

    model, revision = read_hub_name(name, key=key)
    found = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes that one process takes.

    Attributes
    ----------
    phases
        For ``"sampling"``, ``"learning"`` and ``"hand-over"``, with an engine that sleeps ``"first hand-over"``, with
        an adapter ``"merging"``, with several processes ``"start"``: bytes by what takes them. A start from a
        checkpoint takes less than sampling, which counts AdamW's means too.
    prompt_tokens
        Longest prompt that this is for.
    engine
        Of these what vLLM takes while it samples; 0 without it.
    cache_tokens
        Tokens whose keys and values fit into the engine's cache; None without an engine.
    """

    phases: Mapping[str, Mapping[str, int]]
    prompt_tokens: int
    engine: int = 0
    cache_tokens: int | None = None

    @property
    def peak(self) -> int:
        """The most of any phase."""
        return max(sum(parts.values()) for parts in self.phases.values())

    @property
    def peak_learning(self) -> int:
        """What the tensors of the learning phase take: compare it with ``torch.cuda.max_memory_allocated()``."""
        return sum(size for part, size in self.phases["learning"].items() if part not in ("CUDA", "graphs"))

    def utilization(self, total: int) -> float:
        """The share of a card with ``total`` bytes that is vLLM's: its ``gpu_memory_utilization``, in (0, 1]."""
        return min(1.0, ceil(10_000 * self.engine / total) / 10_000)

    def check(self, free: int, *, what: str) -> None:
        """Refuse a device that has ``free`` bytes for this process; ``what`` names it, with {} for its size.

        Raises
        ------
        UsageError
            With the numbers.
        """
        if self.peak <= free:
            return
        phase, parts = max(self.phases.items(), key=lambda item: sum(item[1].values()))
        largest = sorted(parts.items(), key=lambda item: -item[1])[:4]
        named = ", ".join(f"{part} {size / GIB:.1f}" for part, size in largest)
        more = "on more GPUs, or " if "CUDA" in parts else ""
        raise UsageError(
            f"the run does not fit: {phase} takes {self.peak / GIB:.1f} GiB (most are {named}), and "
            f"{what.format(f'{free / GIB:.1f} GiB')}; train {more}with [lora], or lower "
            f"optimizer.tokens_per_micro_batch{' or sampler.kv_cache_gib' if self.engine else ''}"
        )


def plan_memory(
    config: Config,
    shape: ModelShape,
    *,
    ranks: int = 1,
    device: str = "cuda",
    prompt_tokens: int | None = None,
    tokens: int | None = None,
    reference: ModelShape | None = None,
) -> MemoryPlan:
    """Plan the memory of a run.

    Parameters
    ----------
    config, shape
        The run and the shape of its model.
    ranks
        Processes among which the trained weights are shared out, ≥ 1, with a device each.
    device
        ``"cuda"`` or ``"cpu"``.
    prompt_tokens
        Longest prompt; by default what the context leaves, up to `PROMPT`.
    tokens
        That go through the model in the longest micro-batch; by default ``optimizer.tokens_per_micro_batch``, or those
        of a whole step if they are fewer, or of the longest text if they are more.
    reference
        Shape of the reference that ``kl.reference`` names; by default ``shape``.
    """
    gpu, rollout, lora = device == "cuda", config.rollout, config.lora.rank
    precision = config.policy.precision
    if precision == "auto":
        precision = "bf16" if gpu else settled(config.policy, torch.device("cpu"))[0].precision
    bf16 = precision == "bf16"
    adapter = shape.adapter(config.lora)
    trained = adapter if lora else shape.parameters
    frozen_at = BF16 if lora and bf16 else FP32
    limits = [limit for limit in (config.sampler.context, shape.context) if limit is not None]
    room = max(1, min(limits, default=2**30) - rollout.max_new_tokens)
    prompt = min(room, PROMPT) if prompt_tokens is None else prompt_tokens
    length, responses = prompt + rollout.max_new_tokens, rollout.prompts_per_step * rollout.group_size
    if rollout.dynamic_sampling:  # what one draw may ask for where few groups are mixed
        responses *= rollout.over_generation_limit
    responses = ceil(responses / ranks)
    if tokens is None:
        step = responses * rollout.max_new_tokens + responses * prompt // rollout.group_size
        tokens = max(length, min(config.optimizer.tokens_per_micro_batch, step))
    total = shape.parameters * frozen_at + adapter * FP32
    # What is there in every phase.
    apart = config.kl.coefficient and not (lora and config.kl.reference is None and ranks == 1)
    held = {
        "weights": total // ranks,
        "gradients": trained * FP32 // ranks,
        "AdamW": 2 * trained * FP32 // ranks,
        "reference": (reference or shape).parameters * frozen_at if apart else 0,
        "CUDA": gpu * (CONTEXT + (ranks > 1) * TALKING),
    }
    backward = _of_a_backward_pass(config, shape, tokens=tokens, length=length, bf16=bf16, gpu=gpu)
    if ranks > 1:
        backward |= _gathered(shape, trained=not lora, at=frozen_at)
    # Of what is handed over piece by piece, if it has to be made first.
    piece = max(shape.layer, shape.hidden * shape.vocabulary)
    made = piece * FP32 if ranks > 1 or lora else 0
    if config.sampler.backend == "vllm":
        at = BF16 if (config.sampler.precision or precision) == "bf16" else FP32
        weights = {"engine": shape.parameters * at, "graphs": gpu * GRAPHS}
        cache = {"KV cache": int(config.sampler.kv_cache_gib * GIB)}
        at_once = max(min(limits, default=0), TOKENS_AT_ONCE)
        sampling = _sum(weights, cache, _of_an_engine(shape, at_once, config.sampler.max_sequences, at))
        asleep = {"graphs": weights["graphs"]}
        sampler = _sum(weights, cache)
        plan = {
            "sampling": sampling,
            "learning": _sum(asleep if config.sampler.sleep else sampler, backward),
            "hand-over": _sum(weights if config.sampler.sleep else sampler, {"layers gathered": made + piece * at}),
        }
        if config.sampler.sleep:  # before anything is learnt; a model that is saved is merged beside the same
            plan["first hand-over"] = _sum(plan["hand-over"], cache, {"gradients": -held["gradients"]})
        engine, held_by_cache = sum(sampling.values()), cache["KV cache"] // (2 * shape.layers * shape.keys * at)
    else:
        sampler = {"sampler": _of_a_copy(shape, bf16)}
        if config.sampler.ahead is not None:  # what the processes share
            sampler = _sum(sampler, {"sampler": FP32 * shape.parameters})
        evaluated = ceil(config.evaluation.prompts / ranks)
        most = (  # prompts and responses at a time
            max(ceil(responses / rollout.group_size), evaluated),
            max(responses, evaluated * config.evaluation.samples),
        )
        plan = {
            "sampling": _sum(sampler, _of_decoding(shape, *most, prompt, length, bf16, gpu)),
            "learning": _sum(sampler, backward),
            "hand-over": _sum(sampler, {"layers gathered": made}),
        }
        engine, held_by_cache = 0, None
    if gpu and config.sampler.ahead is not None:  # it samples on a device of its own
        plan = {"sampling": {}, "learning": backward, "hand-over": {"layers gathered": made}}
    elif lora and not (gpu and engine):
        # A sampler's copy is whole in float32 until it is rounded; on a CPU a model that is saved stands beside it.
        plan["merging"] = _sum({} if gpu else sampler, {"merged copy": FP32 * shape.parameters})
    phases = {phase: _sum(held, parts) for phase, parts in plan.items()}
    if ranks > 1:  # the first process reads the model, and tries it out
        phases["start"] = _sum({"weights": total, "CUDA": held["CUDA"]})
    return MemoryPlan(phases=phases, prompt_tokens=prompt, engine=engine, cache_tokens=held_by_cache)


def _sum(*several: Mapping[str, int]) -> dict[str, int]:
    """Bytes by what takes them, of all together."""
    names = dict.fromkeys(name for each in several for name in each)
    return {name: value for name in names if (value := sum(each.get(name, 0) for each in several))}


def _of_a_backward_pass(
    config: Config, shape: ModelShape, *, tokens: int, length: int, bf16: bool, gpu: bool
) -> dict[str, int]:
    """What the longest micro-batch holds, in the larger of two moments."""
    policy, lora, at = config.policy, bool(config.lora.rank), BF16 if bf16 else FP32
    eager = policy.attention == "eager" or (policy.attention == "auto" and (shape.capped or not gpu))
    kernel = gpu and bf16 and shape.queries // shape.heads % 8 == 0
    attention = "eager" if eager else "packed" if kernel else "grid"
    kept_of = Kept.of(shape, attention, bf16=bf16, lora=lora)
    new = config.rollout.max_new_tokens
    # Keys of a prompt stand once for each response; a query has a text of keys at most.
    repeated = length / (new + (length - new) / config.rollout.group_size)
    layer = int(tokens * (kept_of.token + repeated * kept_of.slot + length * kept_of.pair))
    if attention != "packed":  # there these count as tokens of the micro-batch, unless it is a single text
        alone = length * kept_of.token + 2 * length * kept_of.slot + length**2 * kept_of.pair
        layer = int(min(layer, max(alone, config.optimizer.tokens_per_micro_batch * kept_of.token)))
    residual = tokens * shape.hidden * (BF16 if bf16 and lora else FP32)
    if policy.gradient_checkpointing:
        kept, again = shape.layers * residual, layer - residual
    else:
        kept, again = shape.layers * layer, 0
    cast = 0 if lora or not bf16 else BF16 * sum(inputs * outputs for _, inputs, outputs in shape.products)
    kept += cast // shape.layers if policy.gradient_checkpointing else cast
    # Gradients in an MLP and of what goes into it.
    at_a_layer = again + 2 * tokens * at * shape.intermediate + 2 * residual
    output = shape.hidden * shape.vocabulary
    to_output = 0 if lora else FP32 * output
    bound = (LOGITS_ON_CPU, LOGITS_ELSEWHERE)[gpu] if policy.logits_at_once == "auto" else policy.logits_at_once
    logits = min(tokens * shape.vocabulary, max(bound, shape.vocabulary))
    # On a GPU the logits of a piece are worked on at once, on a CPU as many as fit its cache.
    at_output = logits * at + 2 * FP32 * (logits if gpu else min(logits, IN_CACHE))
    at_output += (6 if bf16 else 4) * residual  # of the last norm, what goes into the output layer, its gradient
    at_output += (bf16 * BF16 + (0 if lora or not gpu else at)) * output + to_output
    if at_output > at_a_layer + shape.tied * to_output:
        return {"activations": kept, "logits": at_output}
    return {"activations": kept + at_a_layer, "logits": shape.tied * to_output}


def _gathered(shape: ModelShape, *, trained: bool, at: int) -> dict[str, int]:
    """What FSDP gathers: all that is no layer's, and two layers, one of them twice; and gradients of the same."""
    weights = at * (shape.outside + 3 * shape.layer)
    return {"layers gathered": weights + (FP32 * (shape.outside + 2 * shape.layer) if trained else 0)}


def _of_a_copy(shape: ModelShape, bf16: bool) -> int:
    """The torch sampler's weights: in bfloat16 it holds all linear layers apart, the output layer as well."""
    if not bf16:
        return FP32 * shape.parameters
    linear = sum(inputs * outputs for _, inputs, outputs in shape.products)
    output = shape.hidden * shape.vocabulary
    rest = shape.parameters - linear - (0 if shape.tied else output)
    return BF16 * (linear + output) + FP32 * rest


def _of_decoding(
    shape: ModelShape, prompts: int, responses: int, prompt: int, length: int, bf16: bool, gpu: bool
) -> dict[str, int]:
    """What the torch sampler takes: keys and values, logits of the next tokens, and a layer while it reads prompts."""
    at = BF16 if bf16 else FP32
    logits = responses * shape.vocabulary * (3 if gpu else 1) + (0 if gpu else 3 * IN_CACHE)
    return {
        "KV cache": 2 * shape.layers * shape.keys * at * responses * (length - 1),
        "logits": FP32 * logits,
        "activations": at * prompts * prompt * (4 * shape.hidden + 3 * shape.intermediate),
    }


def _of_an_engine(shape: ModelShape, at_once: int, sequences: int, at: int) -> dict[str, int]:
    """What vLLM's forward pass takes: a layer, and logits of all sequences, sorted."""
    reading = at_once * (4 * shape.hidden + 3 * shape.intermediate) * at
    return {"activations": reading + 5 * FP32 * sequences * shape.vocabulary}
