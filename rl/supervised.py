"""The supervised phase: a new model learns the format of a task before reinforcement learning starts.

It is shown demonstrations, of which ``supervised.solved_share`` are correct and the rest are random responses in the
right form, until its success at temperature 1 is where reinforcement learning should begin. All runs of a comparison
start from one such model::

    weightopt start-model --config configs/char-countdown.toml --output out/start
"""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch

from rl.config import Config
from rl.errors import DivergenceError
from rl.models.policy import Policy, choose_device, new_policy, save_policy
from rl.records.metrics import EvaluationRecord, Spent
from rl.records.versions import versions
from rl.samplers.torch_sampler import TorchSampler
from rl.seeds import derive_seed
from rl.step.evaluate import evaluate
from rl.storage import check_new, new_folder, write_checksums
from rl.tasks.registry import build_teaching_task
from rl.tasks.split import held_out_prompts, training_prompts
from rl.verification.pool import open_verifier

# The betas of GPT-3 and its many followers: a phase of a hundred steps is too short for a memory of a thousand.
BETAS = (0.9, 0.95)


def make_start_model(
    config: Config, folder: Path, *, report: Callable[[EvaluationRecord], None] = lambda _: None
) -> EvaluationRecord:
    """Make a model from nothing, teach it the format and save it.

    Parameters
    ----------
    config
        Sections task, model, supervised, rollout (max_new_tokens) and evaluation are used, and the seed.
    folder
        Written whole or not at all: the model in Hugging Face form, and ``supervised.json`` with how it was made.
    report
        Called with each measurement of success; ``step`` counts supervised steps.

    Returns
    -------
    EvaluationRecord
        Success of the saved model on held-out prompts, at temperature 1.

    Raises
    ------
    UsageError
        If ``folder`` exists or cannot be made.
    DivergenceError
        If a loss is not finite; nothing is saved.
    StorageError
        If the model cannot be written in the end.
    """
    check_new(folder, "start model")
    torch.set_num_threads(config.threads)
    task = build_teaching_task(config.task)
    policy = new_policy(config.model, task.alphabet, seed=derive_seed(config.seed, "model"))
    policy.model.to(choose_device(config.device))  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(
        policy.model.parameters(), lr=config.supervised.learning_rate, betas=BETAS, weight_decay=0.0
    )
    sampler = TorchSampler(policy, stop=config.rollout.stop, include_stop=config.rollout.include_stop)
    held_out = held_out_prompts(task, count=config.evaluation.prompts, seed=config.evaluation.seed)
    at_temperature_1 = config.evaluation.model_copy(update={"temperature": 1.0, "pass_at": (), "greedy": False})

    def measure(step: int) -> EvaluationRecord:
        sampler.publish(policy.published_weights())
        return evaluate(
            sampler,
            verifier,
            held_out,
            at_temperature_1,
            max_new_tokens=config.rollout.max_new_tokens,
            step=step,
            spent=Spent(),
            seed=derive_seed(config.seed, "supervised evaluation", step),
        )

    def learn(step: int) -> None:
        rng = Random(derive_seed(config.seed, "demonstrations", step))
        prompts = training_prompts(task, count=config.supervised.batch_size, seed=rng.getrandbits(63))
        demonstrations = [
            task.demonstrate(prompt, rng, solved=rng.random() < config.supervised.solved_share) for prompt in prompts
        ]
        loss = demonstration_loss(policy, [prompt.text for prompt in prompts], demonstrations)
        if not torch.isfinite(loss):
            raise DivergenceError(f"the loss of supervised step {step} is not finite; lower supervised.learning_rate")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with open_verifier(config) as verifier:
        record = measure(0)
        while record.step < config.supervised.steps and record.success < config.supervised.stop_at:
            until = min(record.step + config.supervised.check_every, config.supervised.steps)
            for step in range(record.step + 1, until + 1):
                learn(step)
            record = measure(until)
            report(record)
    made = {"config": config.to_json(), "steps": record.step, "success": record.success, "versions": versions()}
    with new_folder(folder, "start model") as partial:
        save_policy(policy, partial)
        (partial / "supervised.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        write_checksums(partial)
    return record


def demonstration_loss(policy: Policy, prompts: list[str], demonstrations: list[str]) -> torch.Tensor:
    """Mean negative log-probability per token of the demonstrations and the end tokens after them."""
    responses = [(*policy.encode(text), policy.end_tokens[0]) for text in demonstrations]
    log_probs = policy.token_log_probs([policy.encode(prompt) for prompt in prompts], range(len(prompts)), responses)
    return -log_probs.sum() / sum(len(response) for response in responses)
