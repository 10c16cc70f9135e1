"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685), through peft.

The adapter's layers are put into the model itself, so that it is used as before; `Policy.published_weights` says what
it computes in the names of a model without one.
"""

import json
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rl.errors import UsageError, refusing
from rl.models.config import LoraConfig
from rl.models.start import check_weights, weights_checksum

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
    base, base_weights
        Folder of the model it belongs to, and the checksum of its weights.
    """

    wrapped: Any
    base: Path
    base_weights: str

    @property
    def model(self) -> PreTrainedModel:
        """The model whose layers hold the adapter."""
        return self.wrapped.base_model.model


def add_adapter(model: PreTrainedModel, config: LoraConfig, *, base: Path, seed: int) -> Adapter:
    """Freeze a model, and put a new adapter into its layers, which changes nothing yet.

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
        wrapped = peft.get_peft_model(model, settings)
    return _checked(Adapter(wrapped=wrapped, base=base, base_weights=weights_checksum(base)))


def save_adapter(adapter: Adapter, folder: Path) -> None:
    """Write an adapter and the name of the model it belongs to."""
    adapter.wrapped.save_pretrained(folder, save_embedding_layers=False)
    # peft keeps the names of the layers as a set, whose order is another in every process.
    about = folder / "adapter_config.json"
    settings = json.loads(about.read_text(encoding="utf-8"))
    settings["target_modules"] = sorted(settings["target_modules"])
    about.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    base = {"model": str(adapter.base), "weights": adapter.base_weights}
    (folder / BASE).write_text(json.dumps(base) + "\n", encoding="utf-8")


def load_adapter(model: PreTrainedModel, folder: Path, *, base: Path) -> Adapter:
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
        wrapped = _peft().PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    return _checked(Adapter(wrapped=wrapped, base=base, base_weights=weights))


class MergedWeights(UserDict[str, Any]):
    """Weights of an adapted model as if it had no adapter: float32, under their Hugging Face names.

    Each is made when it is looked at, and kept by nobody here. They are those of the model at that moment.

    Parameters
    ----------
    model
        The model whose layers hold the adapter.
    gathered
        Makes a whole tensor of what this process holds of one.
    """

    def __init__(self, model: PreTrainedModel, gathered: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        from peft.tuners.lora import LoraLayer

        self._gathered = gathered
        self._layers = {
            f"{name}.base_layer.weight": layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)
        }
        super().__init__(
            (name.replace(".base_layer.", "."), (name, weight))
            for name, weight in model.state_dict().items()
            if ".lora_" not in name
        )

    @torch.no_grad()
    def __getitem__(self, key: str) -> Tensor:
        name, weight = self.data[key]
        value = self._gathered(weight)
        value = value.float() if value.is_floating_point() else value
        if name not in self._layers:
            return value
        layer: Any = self._layers[name]
        first, second = (self._gathered(each[NAME].weight) for each in (layer.lora_A, layer.lora_B))
        delta = second @ first
        return value + (delta.T if layer.fan_in_fan_out else delta) * layer.scaling[NAME]


def _checked(adapter: Adapter) -> Adapter:
    model = adapter.model.eval()
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    # The parts of an adapted layer are layers of their own.
    if any(list(each.children()) for each in ends if each is not None) and model.config.tie_word_embeddings:
        raise UsageError(
            "lora.targets names the output layer or the embedding, and the start model has one weight for both: merged "
            "into the one, an adapter would change the other. Leave it out"
        )
    return adapter


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what peft says about layers that are not there into our own kind of error."""
    with refusing("section [lora] does not fit the start model", ValueError), warnings.catch_warnings():
        # `_checked` refuses what this warns of.
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")
        yield


def _peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name not in ("peft", "accelerate"):
            raise
        raise UsageError(f"lora.rank above 0 needs {error.name}, which is not installed: {INSTALL}") from error
    return peft
