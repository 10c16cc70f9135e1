"""Train a small model on Countdown in TRL, with a table that is solved for it; under five minutes on a CPU.

    make demo                                  # or make test: makes .venv
    .venv/bin/python -m pip install trl
    .venv/bin/python examples/trl_countdown.py

The start model is made from nothing and writes well-formed expressions that hit the target one time in twelve. What a
run of your own takes from here is in `train`: two lines are ours.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig  # pyright: ignore[reportMissingImports, reportPrivateImportUsage]

import weightopt
from rl.config import Config, load_config
from rl.supervised import make_start_model
from rl.tasks.registry import build_teaching_task
from rl.tasks.split import held_out_prompts, training_prompts
from weightopt.adapters.trl import TableGRPOTrainer

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "demo.toml"
GROUP_SIZE, PROMPTS_PER_STEP, HELD_OUT = 8, 32, 128


def solve_table(file: Path) -> None:
    """The best table for groups of 8 from success 0.08 to 0.9, where every step draws as many, as TRL does."""
    problem = weightopt.GroupProblem(weightopt.Problem(start=0.08, target=0.9, clock="regular"), GROUP_SIZE)
    weightopt.solve(problem).table().save(file)


def train(table: Path, start_model: Path, config: Config, steps: int, output: Path) -> list[dict[str, float]]:
    """Train in TRL; the lines of its log, first and last those with the held-out success before and after."""
    task = build_teaching_task(config.task)
    training = training_prompts(task, count=PROMPTS_PER_STEP * steps, seed=0)
    held_out = held_out_prompts(task, count=HELD_OUT, seed=0)
    problems = {prompt.text: prompt for prompt in (*training, *held_out)}

    def correct(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
        """The reward is correctness: 1 or 0, nothing for length or format."""
        return [float(bool(task.verify(problems[p], text))) for p, text in zip(prompts, completions, strict=True)]

    trainer = TableGRPOTrainer(
        table=table,
        model=AutoModelForCausalLM.from_pretrained(start_model, local_files_only=True, dtype="float32"),
        processing_class=AutoTokenizer.from_pretrained(start_model, local_files_only=True),
        reward_funcs=correct,
        train_dataset=Dataset.from_dict({"prompt": [prompt.text for prompt in training]}),
        eval_dataset=Dataset.from_dict({"prompt": [prompt.text for prompt in held_out]}),
        args=GRPOConfig(
            output_dir=str(output),
            loss_type="dr_grpo",  # divides by a constant, so that the table's weight is what counts
            num_generations=GROUP_SIZE,
            num_generations_eval=4,
            per_device_train_batch_size=PROMPTS_PER_STEP * GROUP_SIZE,
            per_device_eval_batch_size=HELD_OUT * 4,
            max_completion_length=config.rollout.max_new_tokens,
            max_steps=steps,
            learning_rate=config.optimizer.learning_rate,
            adam_beta2=0.95,
            lr_scheduler_type="constant",
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            logging_steps=min(10, steps),
            save_strategy="no",
            report_to=[],
            dataloader_pin_memory=False,
        ),
    )
    trainer.evaluate()
    before = trainer.state.log_history[-1:]
    trainer.train()
    trainer.evaluate()
    return before + trainer.state.log_history


def main() -> None:
    """Solve, make a start model, train, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/trl-countdown"), help="a folder for all files")
    parser.add_argument("--steps", type=int, default=100, help="steps of 256 responses (default 100)")
    parser.add_argument("--supervised-steps", type=int, default=80, help="most steps for the start model (default 80)")
    options = parser.parse_args()

    began = time.perf_counter()
    config = load_config(CONFIG, [f"supervised.steps={options.supervised_steps}"])
    options.output.mkdir(parents=True, exist_ok=True)
    table, start_model = options.output / "table.json", options.output / "start"
    solve_table(table)
    if not start_model.exists():
        make_start_model(config, start_model)
    log = train(table, start_model, config, options.steps, options.output / "run")

    all_wrong = [line["weight_table/all_wrong"] for line in log if "weight_table/all_wrong" in line]
    print(f"held-out success {log[0]['eval_reward']:.3f} before and {log[-1]['eval_reward']:.3f} after the run")
    print(f"share of groups without a correct response {all_wrong[0]:.2f} at first and {all_wrong[-1]:.2f} at last")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
