"""The hand-over of weights to an engine, with engines that are at fault in the ways engines have been seen to be."""

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rl.run.run
import rl.samplers.registry
import rl.train
from rl import command
from rl.config import Config, load_config, parse_config
from rl.errors import SyncError, UsageError
from rl.models.policy import Policy
from rl.records.layout import latest_checkpoint
from rl.run.checkpoint import read_state
from rl.samplers.hand_over import HandOver, LogProbs, compare, make_probe
from rl.samplers.rollout import Batch
from rl.samplers.torch_sampler import TorchSampler
from rl.samplers.vllm_sampler import preserved_globals
from rl.tasks.protocol import Prompt
from tests.worlds import GROUP_SIZE, document, tiny_policy, toml_of

# float32 logits of order 1, the same operations on both sides but for the padding.
TOLERANCE = 1e-4
PROBE = make_probe([(2, 3, 2), (3, 3, 3, 2, 3)], vocabulary=4, longest=12, seed=0)


pytestmark = pytest.mark.usefixtures("one_thread")


def scores(policy: Policy, sequences: Sequence[Sequence[int]]) -> LogProbs:
    """Token by token, a forward pass for each sequence."""
    rows = []
    for sequence in sequences:
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([list(sequence)]), use_cache=False).logits[0]
        log_probs = torch.log_softmax(logits, dim=-1)
        rows.append([float(log_probs[place, token]) for place, token in enumerate(sequence[1:])])
    return rows


class CopyEngine:
    """A copy of a policy with an output layer of its own, and a cache of what it has scored."""

    def __init__(self, policy: Policy, *, fault: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict) -> None:
        self.policy = Policy(model=copy.deepcopy(policy.model), tokenizer=policy.tokenizer)
        head: Any = self.policy.model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.clone())
        with torch.no_grad():
            for parameter in self.policy.model.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(0))
        self.fault = fault
        self.held = [0, 0]
        self.late = False
        self._cache: dict[Sequence[int], Sequence[float]] = {}

    def load(self, weights: Mapping[str, Tensor], *, version: int) -> None:
        self.policy.model.load_state_dict(self.fault(weights), strict=False)
        self.held = [version, version - self.late]

    def versions(self) -> Sequence[int]:
        return self.held

    def forget(self) -> None:
        self._cache.clear()

    def score(self, sequences: Sequence[Sequence[int]]) -> LogProbs:
        for sequence in sequences:
            self._cache.setdefault(sequence, scores(self.policy, [sequence])[0])
        return [self._cache[sequence] for sequence in sequences]


def shifted(policy: Policy, seed: int) -> None:
    """Something like an update of a learning rate of 1e-2."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(1e-2 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture
def policy() -> Policy:
    return tiny_policy(layers=2, context=32, initializer_range=0.3)


def handing_over(policy: Policy, engine: CopyEngine) -> HandOver:
    return HandOver(engine, score=lambda probe: scores(policy, probe), probe=PROBE, tolerance=TOLERANCE)


def test_every_hand_over_is_proven(policy: Policy) -> None:
    hand_over = handing_over(policy, CopyEngine(policy))
    for number in (1, 2, 3):
        shifted(policy, number)
        # Were the cache kept, the second proof would compare with the first weights.
        assert hand_over.push(policy.model.state_dict()) <= TOLERANCE
        assert hand_over.version == number
        hand_over.check()


def without(*names: str) -> Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]:
    def fault(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        kept = {name: tensor for name, tensor in weights.items() if not name.startswith(names)}
        assert len(kept) < len(weights)
        return kept

    return fault


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        without("lm_head."),
        without("model.layers.1."),
        without("model.norm"),
        without("model.layers.0.mlp.down_proj"),
        lambda weights: {**weights, "model.norm.weight": weights["model.norm.weight"] * 1.01},
        lambda weights: {**weights, "model.norm.weight": weights["model.norm.weight"] * float("nan")},
    ],
    ids=["a tied output layer", "a layer", "the norm", "a matrix", "one percent", "not a number"],
)
def test_weights_that_do_not_arrive_are_noticed(policy: Policy, fault: Any) -> None:
    engine = CopyEngine(policy)
    hand_over = handing_over(policy, engine)
    hand_over.push(policy.model.state_dict())
    shifted(policy, 1)
    engine.fault = fault
    with pytest.raises(
        SyncError, match=r"after hand-over 2 .* differ by .* nats in root mean square, at most .*, tolerance 0\.0001"
    ):
        hand_over.push(policy.model.state_dict())
    with pytest.raises(SyncError, match="not proven: hand-over 2"):
        hand_over.check()
    engine.fault = dict
    hand_over.push(policy.model.state_dict())
    hand_over.check()


def test_an_engine_without_weights_or_with_others_is_not_sampled_from(policy: Policy) -> None:
    engine = CopyEngine(policy)
    hand_over = handing_over(policy, engine)
    with pytest.raises(SyncError, match="not proven: hand-over 0"):
        hand_over.check()
    hand_over.push(policy.model.state_dict())
    engine.load(policy.model.state_dict(), version=7)  # behind the back of the hand-over
    with pytest.raises(SyncError, match=r"hand-over \[7, 7\], and the last one was 1"):
        hand_over.check()
    engine.late = True  # one worker of two
    with pytest.raises(SyncError, match=r"hand-over \[2, 1\], and the last one was 2"):
        hand_over.push(policy.model.state_dict())


def test_an_engine_that_refuses_weights_says_why(policy: Policy) -> None:
    def refuse(_: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        raise ValueError("there is no parameter\n named so")

    with pytest.raises(
        SyncError, match="does not take over the weights of hand-over 1: there is no parameter named so"
    ):
        handing_over(policy, CopyEngine(policy, fault=refuse)).push(policy.model.state_dict())


def test_differences_are_compared_place_by_place() -> None:
    assert compare([[-1.0, -2.0], [-3.0]], [[-1.0, -2.5], [-2.75]]).tolist() == [0.0, 0.5, -0.25]
    with pytest.raises(ValueError, match="longer"):
        compare([[-1.0]], [[-1.0, -1.0]])


def test_the_probe_is_the_same_each_time() -> None:
    prompts = [(index,) * (index + 1) for index in range(20)]
    probe = make_probe(prompts, vocabulary=50, longest=12, seed=4)
    assert (
        probe
        == make_probe(prompts, vocabulary=50, longest=12, seed=4)
        != make_probe(prompts, vocabulary=50, longest=12, seed=5)
    )
    assert [len(sequence) for sequence in probe] == [9, 10, 11, 12, 12, 12, 12, 12]
    assert all(0 <= token < 50 for sequence in probe for token in sequence)


def test_global_state_is_put_back() -> None:
    def draws() -> tuple[Any, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)

    def disturb() -> None:
        draws()
        torch.set_num_threads(threads + 1)
        torch.set_num_threads = lambda _: None  # type: ignore[assignment]
        raise RuntimeError("also then")

    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    seed()
    expected = draws()
    seed()
    with pytest.raises(RuntimeError, match="also then"), preserved_globals():
        disturb()
    assert draws() == expected
    assert torch.set_num_threads is set_num_threads
    assert torch.get_num_threads() == threads


# In the loop.


class EngineSampler:
    """The torch sampler, with a hand-over that goes wrong at one of its calls."""

    def __init__(self, policy: Policy, *, wrong_at: int) -> None:
        self._sampler = TorchSampler(policy)
        self.ends, self.engine, self._rests = self._sampler.ends, "a copy", False
        self._engine = CopyEngine(policy)
        self._hand_over = handing_over(policy, self._engine)
        self._wrong_at = wrong_at

    def publish(self, weights: Mapping[str, Tensor]) -> None:
        self._engine.fault = without("model.layers.0.") if self._hand_over.version + 1 == self._wrong_at else dict
        assert self._rests == (self._hand_over.version > 0)
        self._rests = False
        self._hand_over.push(weights)
        self._sampler.publish(weights)

    def rest(self) -> None:
        assert not self._rests
        self._rests = True

    def sample(self, prompts: Sequence[Prompt[Any]], **settings: Any) -> Batch:
        assert not self._rests  # its weights are forgotten until the next hand-over
        self._hand_over.check()
        return self._sampler.sample(prompts, **settings)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table_file: Callable[[str, int], Path]) -> tuple[Path, Path]:
    """Configuration and output of a run whose engine loses its weights at step 3, after hand-overs 1 to 3."""
    settings = document(table_file("linear-r", GROUP_SIZE), model={"context": 32})
    config = tmp_path / "config.toml"
    config.write_text(toml_of(settings))

    @contextmanager
    def open_sampler(_: Config, policy: Policy, weights: Mapping[str, Tensor], **__: Any) -> Iterator[EngineSampler]:
        sampler = EngineSampler(policy, wrong_at=4)
        sampler.publish(weights)
        yield sampler

    monkeypatch.setattr(rl.run.run, "open_sampler", open_sampler)
    return config, tmp_path / "run"


@pytest.mark.slow
def test_a_run_whose_engine_is_out_of_sync_stops(run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    config, output = run
    with pytest.raises(SystemExit) as stop:
        command.train(config, output, quiet=True)
    assert stop.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith("weightopt: step 3: after hand-over 4 the log-probabilities of the probe batch")
    assert printed.endswith("the last checkpoint is intact.\n")
    assert printed.count("\n") == 1
    checkpoint = latest_checkpoint(output / "checkpoints")
    assert checkpoint is not None
    assert read_state(checkpoint)[0].step == 2


def test_a_backend_that_is_not_installed_is_refused_first(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, output = run
    monkeypatch.setattr(rl.samplers.registry, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="needs vLLM, which is not installed"):
        rl.train.train(load_config(config, ["sampler.backend=vllm"]), output, quiet=True)
    assert not output.exists()


ADDITION = {"task": {"name": "addition", "digits": {"1": 1}}}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sampler": {"precision": "bf16"}}, "precision goes with backend = 'vllm'"),
        ({"sampler": {"sleep": True}}, "sleep goes with backend = 'vllm'"),
        ({"sampler": {"importance_cap": 3.0}}, "importance_cap goes with importance_sampling = true"),
        ({"sampler": {"backend": "vllm", "importance_cap": 0.5}}, "sampler.importance_cap"),
        ({"sampler": {"backend": "vllm"}, "evaluation": {"temperature": 0.005}}, "must be 0 or at least 0.01"),
        # A truncated distribution is not the policy's, so there is no key for one.
        ({"sampler": {"backend": "vllm", "top_p": 0.9}}, "'sampler.top_p' is refused"),
        ({"rollout": {"top_k": 20}}, "'rollout.top_k' is refused"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_config({**ADDITION, **changes})
    assert sentence in str(error.value)


def test_importance_sampling_is_on_with_an_engine_and_off_without() -> None:
    caps = [
        parse_config({**ADDITION, "sampler": sampler}).sampler.cap
        for sampler in (
            {},
            {"importance_sampling": True, "importance_cap": 3.0},
            {"backend": "vllm"},
            {"backend": "vllm", "importance_sampling": False},
        )
    ]
    assert caps == [None, 3.0, 2.0, None]
