"""One batch of scored groups and a tiny policy, with what `rl` makes of them: the advantages and the gradient.

``tests/data/scored_groups.json`` keeps both, so that the environments of other trainers, which have no `rl`, are
compared with it. ``python -m tests.scored_groups`` writes it anew.
"""

import json
from pathlib import Path

import numpy as np

from weightopt.table import WeightTable

FILE = Path(__file__).parent / "data" / "scored_groups.json"
SIZE, TOKENS, LONGEST = 8, 5, 12


def table():
    """A curve with advantages for groups of one kind."""
    return WeightTable(
        name="steep",
        label="A steep curve with an advantage for all-wrong groups",
        group_size=None,
        rho=(0.01, 0.3, 0.99),
        weight=(10.0, 2.0, 1.0),
        all_wrong_advantage=-1.0,
        all_right_advantage=0.25,
    )


def batch():
    """Group by group: K = 0 to M correct; responses are lists of tokens, of unequal length."""
    rng = np.random.default_rng(7)
    ids, scores, responses = [], [], []
    for successes in range(SIZE + 1):
        for score in rng.permutation([1] * successes + [0] * (SIZE - successes)).tolist():
            ids.append(f"prompt-{successes}")
            scores.append(score)
            responses.append(rng.integers(0, TOKENS, rng.integers(1, LONGEST + 1)).tolist())
    return {"ids": ids, "scores": scores, "responses": responses}


def logits():
    """Of a policy whose next token depends on the prompt and the token before (before the first: token 0)."""
    return np.random.default_rng(8).normal(size=(SIZE + 1, TOKENS, TOKENS))


def log_probs(weights, prompt, response):
    """Log-probabilities of a response's tokens, differentiable; `weights` is `logits` as a tensor."""
    import torch

    before = [0, *response[:-1]]
    return torch.log_softmax(weights[prompt][before], dim=-1)[torch.arange(len(response)), response]


def of_rl():
    """The advantages of `rl`, shape (P, M), and the gradient of its loss in the logits."""
    import torch

    from rl.learning.loss import accumulate_gradient, rows_of
    from rl.samplers.rollout import Batch, Completion, Group
    from rl.step.advantage import weigh
    from rl.tasks.protocol import Prompt

    given = batch()
    correct = np.array(given["scores"], dtype=bool).reshape(-1, SIZE)
    advantages = weigh(table().for_group(SIZE), correct, all_wrong_factor=1.0)
    weights = torch.tensor(logits(), requires_grad=True)

    class Policy:
        def token_log_probs(self, prompts, owner, responses, *, temperature):
            assert temperature == 1
            rows = [log_probs(weights, prompts[at][0], each) for at, each in zip(owner, responses, strict=True)]
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    groups = []
    for number in range(SIZE + 1):
        members = given["responses"][number * SIZE : (number + 1) * SIZE]
        completions = tuple(
            Completion(tokens=tuple(each), log_probs=(0.0,) * len(each), text="", finished=True) for each in members
        )
        prompt = Prompt(id=str(number), text=str(number), difficulty="", problem=number)
        groups.append(Group(prompt=prompt, prompt_tokens=(number,), completions=completions))
    rows = rows_of(Batch(groups=tuple(groups)), advantages)
    accumulate_gradient(Policy(), rows, responses=advantages.size, temperature=1.0, tokens_per_micro_batch=64)
    assert weights.grad is not None
    return advantages, weights.grad.numpy()


def recorded():
    """What the file holds: the advantages, shape (P·M,), and the gradient."""
    document = json.loads(FILE.read_text(encoding="utf-8"))
    return np.array(document["advantages"]), np.array(document["gradient"])


if __name__ == "__main__":
    found = of_rl()
    document = {"advantages": found[0].ravel().tolist(), "gradient": found[1].tolist()}
    FILE.write_text(json.dumps(document) + "\n", encoding="utf-8")
