"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685), through peft.

The adapter's layers are put into the model itself, so that it is used as before; `Policy.published_weights` says what
it computes in the names of a model without one.
"""

import json
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rl.errors import UsageError
from rl.models.config import LoraConfig
from rl.models.start import check_weights, weights_checksum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rl.models.policy import Policy

INSTALL = "pip install 'weightopt[lora]'"
NAME = "default"  # peft's, of the only adapter
BASE = "base.json"


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What has been put into a model.

    Attributes
    ----------
    wrapped
        The `peft.PeftModel` around the model.
    base
        Folder of the model it belongs to.
    base_weights
        Checksum of that model's weights.
    """

    wrapped: Any
    base: Path
    base_weights: str


def add_adapter(policy: "Policy", config: LoraConfig, *, base: Path, seed: int) -> "Policy":
    """Freeze the model of a policy, and give it a new adapter that changes nothing yet; its model becomes the adapted.

    ``base`` is the folder that the model was read from. Torch's global generator is left as it was found.

    Raises
    ------
    UsageError
        If peft is not installed, or the model has no layers of the names in ``config.targets``, or they are the output
        layer or the embedding of a model that has one weight for both.
    """
    peft = _peft()
    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM", r=config.rank, lora_alpha=config.scale, lora_dropout=0.0, target_modules=targets
    )
    with _refusing(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = peft.get_peft_model(policy.model, settings)
    return _adapted(policy, Adapter(wrapped=wrapped, base=base, base_weights=weights_checksum(base)))


def save_adapter(policy: "Policy", folder: Path) -> None:
    """Write the adapter of a policy, which has one, the name of the model it belongs to, and the tokenizer."""
    adapter = policy.adapter
    assert adapter is not None
    adapter.wrapped.save_pretrained(folder, save_embedding_layers=False)
    # peft keeps the names of the layers as a set, whose order is another in every process.
    about = folder / "adapter_config.json"
    settings = json.loads(about.read_text(encoding="utf-8"))
    settings["target_modules"] = sorted(settings["target_modules"])
    about.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    policy.tokenizer.save_pretrained(folder)
    base = {"model": str(adapter.base), "weights": adapter.base_weights}
    (folder / BASE).write_text(json.dumps(base) + "\n", encoding="utf-8")


def load_adapter(policy: "Policy", folder: Path, *, base: Path) -> "Policy":
    """Put the adapter that `save_adapter` has written into ``folder`` into the model read from ``base``.

    Raises
    ------
    UsageError
        If it belongs to another model, or its weights are missing or damaged.
    """
    weights = weights_checksum(base)
    try:
        known = json.loads((folder / BASE).read_text(encoding="utf-8"))["weights"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"adapter {str(folder)!r} has no {BASE} that names its model") from error
    if known != weights:
        raise UsageError(
            f"adapter {str(folder)!r} belongs to a model with weights {known}; {str(base)!r} has {weights}"
        )
    check_weights(folder / "adapter_model.safetensors")
    with _refusing():
        wrapped = _peft().PeftModel.from_pretrained(policy.model, str(folder), is_trainable=True)
    return _adapted(policy, Adapter(wrapped=wrapped, base=base, base_weights=weights))


@torch.no_grad()
def merged_weights(model: PreTrainedModel) -> Mapping[str, Tensor]:
    """Weights of an adapted model as if it had no adapter: float32, under their Hugging Face names."""
    from peft.tuners.lora import LoraLayer

    deltas = {
        f"{name}.base_layer.weight": layer.get_delta_weight(NAME)  # type: ignore[operator]
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }
    merged = {}
    for name, weight in model.state_dict().items():
        if ".lora_" in name:
            continue
        value = weight.float() if weight.is_floating_point() else weight
        merged[name.replace(".base_layer.", ".")] = value + deltas[name].float() if name in deltas else value
    return merged


def _adapted(policy: "Policy", adapter: Adapter) -> "Policy":
    model = adapter.wrapped.base_model.model.eval()
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    # The parts of an adapted layer are layers of their own.
    if any(list(each.children()) for each in ends if each is not None) and model.config.tie_word_embeddings:
        raise UsageError(
            "lora.targets names the output layer or the embedding, and the start model has one weight for both: merged "
            "into the one, an adapter would change the other. Leave it out"
        )
    return replace(policy, model=model, adapter=adapter)


@contextmanager
def _refusing() -> "Iterator[None]":
    """Turn what peft says about layers that are not there into our own kind of error."""
    try:
        with warnings.catch_warnings():
            # `_adapted` refuses what this warns of.
            warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")
            yield
    except ValueError as error:
        raise UsageError(f"section [lora] does not fit the start model: {' '.join(str(error).split())}") from error


def _peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name not in ("peft", "accelerate"):
            raise
        raise UsageError(f"lora.rank above 0 needs {error.name}, which is not installed: {INSTALL}") from error
    return peft
