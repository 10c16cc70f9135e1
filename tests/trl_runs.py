"""A run of TRL on a tiny Llama that says what happened in it; also a program for several processes."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import (  # pyright: ignore[reportMissingImports]
    GRPOConfig,  # pyright: ignore[reportPrivateImportUsage]
    GRPOTrainer,  # pyright: ignore[reportPrivateImportUsage]
    RLOOConfig,  # pyright: ignore[reportPrivateImportUsage]
    RLOOTrainer,  # pyright: ignore[reportPrivateImportUsage]
)

from rl.models.config import ModelConfig
from rl.models.policy import new_policy, save_policy
from weightopt.adapters.trl import TableGRPOTrainer, TableRLOOTrainer

ALPHABET = "abcdefgh"
TRAINERS = {
    "table": (TableGRPOTrainer, GRPOConfig),
    "table-rloo": (TableRLOOTrainer, RLOOConfig),
    "grpo": (GRPOTrainer, GRPOConfig),
    "rloo": (RLOOTrainer, RLOOConfig),
}
# 20 steps of 24 responses in two parts, on a CPU.
SETTINGS = {
    "per_device_train_batch_size": 12,
    "gradient_accumulation_steps": 2,
    "num_generations": 4,
    "max_completion_length": 4,
    "max_steps": 20,
    "learning_rate": 1e-2,
    "beta": 0.0,
    "logging_steps": 1,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "bf16": False,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}


def make_model(folder: Path) -> Path:
    """A Llama with two small layers, whose tokens are eight letters and an end."""
    shape = ModelConfig(layers=2, hidden_size=32, intermediate_size=64, heads=2, context=32)
    save_policy(new_policy(shape, ALPHABET, seed=0), folder)
    return folder


def first_is_prompt(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float | None]:
    """1 if a response begins with the last letter of its prompt."""
    return [float(text[:1] == prompt[-1]) for prompt, text in zip(prompts, completions, strict=True)]


def early_letter(completions: Sequence[str], **_: Any) -> list[float | None]:
    """1 if a response begins with one of the first three letters: as often as not."""
    return [float(text[:1] in ("a", "b", "c")) for text in completions]


def unsure(completions: Sequence[str], **_: Any) -> list[float | None]:
    """As `early_letter`, and None for a response that begins with the fourth."""
    return [None if text[:1] == "d" else float(text[:1] in ("a", "b", "c")) for text in completions]


def shaped(completions: Sequence[str], **_: Any) -> list[float | None]:
    """0.7 for a right response, 0.2 for a wrong one."""
    return [0.7 if text[:1] in ("a", "b", "c") else 0.2 for text in completions]


REWARDS: dict[str, Callable[..., list[float | None]]] = {
    function.__name__: function for function in (first_is_prompt, early_letter, unsure, shaped)
}


def trainer(
    folder: Path, output: Path, kind: str = "table", rewards: Sequence[str] = ("early_letter",), **changes: Any
) -> Any:
    """A trainer that keeps the rewards, advantages and logged advantages of every batch in ``seen``."""
    base, config = TRAINERS[kind]
    own = {key: changes.pop(key) for key in ("table", "threshold", "correctness") if key in changes}

    class Recorded(base):  # pyright: ignore[reportGeneralTypeIssues]
        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            gathered = super()._calculate_rewards(*args, **kwargs)
            self.latest = gathered.clone().cpu().numpy()
            return gathered

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)
            self.seen.append(
                {
                    "training": self.model.training,
                    "rewards": self.latest,
                    "advantages": output["advantages"].cpu().numpy(),
                    "logged": np.array(list(self._logs["advantages"])[-len(self.latest) :]),
                }
            )
            return output

    Recorded.__name__ = base.__name__
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    data = Dataset.from_dict({"prompt": [f"{a}{b}" for a in ALPHABET for b in ALPHABET]})
    made = Recorded(
        model=model,
        processing_class=AutoTokenizer.from_pretrained(folder, local_files_only=True),
        reward_funcs=[REWARDS[name] for name in rewards],
        train_dataset=data,
        eval_dataset=data.select(range(2)),
        args=config(output_dir=str(output), **{**SETTINGS, **changes}),
        **own,
    )
    made.seen = []
    return made


def weights(made: Any) -> np.ndarray:
    """All weights of the trained model, one after the other."""
    model = made.accelerator.unwrap_model(made.model)
    return np.concatenate([value.detach().cpu().numpy().ravel() for value in model.parameters()])


def main() -> None:
    """Run a job in the processes that torchrun has started; each writes what it has seen."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    output = Path(job.pop("output"))
    made = trainer(Path(job.pop("folder")), output, **job)
    made.train()
    np.savez(
        output / f"rank-{made.accelerator.process_index}.npz",
        weights=weights(made),
        **{f"{key}-{n}": seen[key] for n, seen in enumerate(made.seen) for key in ("rewards", "advantages", "logged")},
    )


if __name__ == "__main__":
    main()
