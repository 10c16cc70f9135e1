"""Sampling with vLLM, in this process.

The engine is built from the configuration and the tokenizer alone, with random weights; its only weights are those that
the hand-over gives it, the first before anything is sampled. Responses follow from the weights and the arguments: every
request has a seed of its own and what was computed before is forgotten.

Every token is drawn from the whole distribution: there are no keys for top-p, top-k or penalties, and the sampling
defaults that come with many models are not read, because a log-probability of anything else would not be the policy's.
"""

import copy
import os
import random
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl.errors import DivergenceError, UsageError, refusing
from rl.models.policy import Policy
from rl.samplers.config import SamplerConfig
from rl.samplers.hand_over import HandOver, LogProbs, make_probe
from rl.samplers.rollout import Batch, Completion
from rl.samplers.stop_strings import StopStrings
from rl.seeds import derive_seed
from rl.tasks.protocol import Prompt

GIB = 2**30
TOKENS_AT_ONCE = 4096

DTYPES: Mapping[str, str] = {"fp32": "float32", "bf16": "bfloat16"}

# Nats, for an engine that computes with the same weights: what was measured (docs/training.md), and room above it.
TOLERANCES: Mapping[str, float] = {"fp32": 1e-4, "bf16": 0.5}


class VllmSampler:
    """A `rl.samplers.rollout.Sampler` with a vLLM engine of its own.

    Parameters
    ----------
    policy
        The policy that is trained: its tokenizer is used, and its weights when the engine is checked against it.
    probe, seed
        Prompts to check the engine on after every hand-over, at least one, and of the tokens that follow them.
    utilization
        Share of the GPU that vLLM asks for; None on a CPU, where it asks for what it is told to take.

    Attributes
    ----------
    engine
        Name of the class of vLLM that computes, its model runner, of which there are several.

    Raises
    ------
    UsageError
        If vLLM cannot run this model, or not in this memory.
    SyncError
        If the engine does not compute what the policy does.
    """

    def __init__(
        self,
        policy: Policy,
        config: SamplerConfig,
        *,
        weights: Mapping[str, Tensor],
        stop: Sequence[str] = (),
        include_stop: bool = False,
        probe: Sequence[Prompt[Any]],
        seed: int,
        utilization: float | None = None,
    ) -> None:
        self._policy = policy
        self._stops = tuple(stop)
        self._stop = StopStrings(policy, stop, include=include_stop)
        self.ends = (*policy.end_names, *stop)
        limits = [limit for limit in (config.context, policy.context) if limit is not None]
        if not limits:
            raise UsageError("the model knows no limit of its context: set sampler.context")
        self._context = min(limits)
        precision = config.precision or policy.settings.precision
        self._engine = _Engine(policy, config, dtype=DTYPES[precision], context=self._context, utilization=utilization)
        try:
            self.engine = self._engine.runner()
            self._hand_over = HandOver(
                self._engine,
                score=self._score,
                probe=make_probe(
                    [policy.encode_prompt(prompt.text) for prompt in probe],
                    vocabulary=policy.model.config.get_text_config().vocab_size,
                    longest=self._context - 1,
                    seed=seed,
                ),
                tolerance=config.sync_tolerance or max(TOLERANCES[precision], TOLERANCES[policy.settings.precision]),
            )
            self.publish(weights)
        except BaseException:
            self.close()
            raise

    def publish(self, weights: Mapping[str, Tensor]) -> None:
        """Hand the trained model's weights over and prove that the engine computes with them, or raise `SyncError`.

        They have their Hugging Face names, ``lm_head.weight`` as well where it is tied to the embeddings.
        """
        self._hand_over.push(weights)

    def rest(self) -> None:
        """With ``sampler.sleep``, give the GPU's memory away until the next `publish`."""
        self._engine.sleep()

    def sample(
        self,
        prompts: Sequence[Prompt[Any]],
        *,
        group_size: int,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        first: int = 0,
    ) -> Batch:
        """Sample ``group_size`` responses to each prompt; see `rl.samplers.rollout.Sampler.sample`.

        Response j to prompt i is drawn with a seed that follows from ``seed``, ``first`` + i and j.
        """
        prompt_tokens = [self._policy.encode_prompt(prompt.text) for prompt in prompts]
        longest = max(len(sequence) for sequence in prompt_tokens)
        if longest + max_new_tokens > self._context:
            raise UsageError(
                f"a prompt of {longest} tokens and {max_new_tokens} new ones do not fit into the engine's context of "
                f"{self._context}: lower rollout.max_new_tokens, or raise sampler.context where the model can do more"
            )
        self._hand_over.check()
        drawn = self._engine.generate(
            [sequence for sequence in prompt_tokens for _ in range(group_size)],
            seeds=[derive_seed(seed, first + i, j) for i in range(len(prompts)) for j in range(group_size)],
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            stop=self._stops,
        )
        completions = [self._completion(*response, temperature=temperature) for response in drawn]
        return Batch.of(prompts, prompt_tokens, completions)

    def close(self) -> None:
        """Shut the engine down and free its memory."""
        self._engine.close()

    def _completion(
        self, tokens: list[int], log_probs: list[float], stopped: bool, *, temperature: float
    ) -> Completion:
        if any(log_prob != log_prob or log_prob == -torch.inf for log_prob in log_probs):
            raise DivergenceError("the logits of the policy are not finite")
        ended = tokens[-1] in self._policy.end_tokens
        text = self._text(tokens[:-1] if ended else tokens)
        cut = self._stop.ended(text)
        if cut is not None:
            # The engine decodes with the prompt at hand, and may see a stop string later than the text shows it.
            while len(tokens) > 1 and self._stop.ended(self._text(tokens[:-1])) is not None:
                tokens = tokens[:-1]
            ended = False
        return Completion(
            tokens=tuple(tokens),
            log_probs=tuple(log_probs[: len(tokens)]) if temperature else (0.0,) * len(tokens),
            text=text if cut is None else cut,
            finished=ended or stopped or cut is not None,
        )

    def _text(self, tokens: list[int]) -> str:
        return self._policy.decode([tokens])[0]

    @torch.no_grad()
    def _score(self, sequences: Sequence[Sequence[int]]) -> LogProbs:
        """What `Engine.score` should give, by the trained model."""
        log_probs = self._policy.token_log_probs(
            [sequence[:1] for sequence in sequences],
            range(len(sequences)),
            [sequence[1:] for sequence in sequences],
            temperature=1.0,
        )
        return [row[: len(sequence) - 1] for row, sequence in zip(log_probs.tolist(), sequences, strict=True)]


class _Engine:
    """vLLM behind the few calls that are made here; a `rl.samplers.hand_over.Engine`."""

    def __init__(
        self, policy: Policy, config: SamplerConfig, *, dtype: str, context: int, utilization: float | None
    ) -> None:
        # Read when vLLM is imported: one process, nothing sent to anybody, and no lines across the display of a run.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        with preserved_globals(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations that are vLLM's own
            import vllm  # pyright: ignore[reportMissingImports]
            from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]

            self._vllm = vllm
            self._ends = list(policy.end_tokens)
            self._sleeps = config.sleep
            self._asleep = False
            _check_support(policy, config, on_cpu=current_platform.is_cpu())
            refused = "vLLM cannot run this model with [sampler] as it is"
            with _folder_without_weights(policy) as folder, refusing(refused, ValueError):
                self._llm = vllm.LLM(
                    model=folder,
                    load_format="dummy",
                    trust_remote_code=False,
                    dtype=dtype,
                    max_model_len=context,
                    max_num_seqs=config.max_sequences,
                    kv_cache_memory_bytes=int(config.kv_cache_gib * GIB),
                    **({} if utilization is None else {"gpu_memory_utilization": utilization}),
                    # A prompt read in pieces draws a token after each, and vLLM has to wind the request's generator
                    # back, which on a CPU it cannot.
                    enable_chunked_prefill=False,
                    max_num_batched_tokens=max(context, TOKENS_AT_ONCE),
                    enforce_eager=current_platform.is_cpu(),  # there compiling would take longer than it saves
                    logprobs_mode="processed_logprobs",  # at the sampling temperature
                    generation_config="vllm",  # not that of the model
                    enable_sleep_mode=config.sleep,
                    disable_log_stats=True,
                    seed=0,
                )

    def load(self, weights: Mapping[str, Tensor], *, version: int) -> None:
        def note(worker: Any) -> None:
            worker.weightopt_version = version

        with preserved_globals():
            if self._asleep:
                # Keys and values come last: what a hand-over makes in passing has gone by then.
                self._llm.wake_up(["weights"])
            # In the trainer's process it gets the tensors themselves, one by one. vLLM's weight transfer carries them
            # to another process, and then does what this does.
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
            self._llm.collective_rpc(note)
            if self._asleep:
                self._llm.wake_up(["kv_cache"])
                self._asleep = False

    def versions(self) -> Sequence[int]:
        def read(worker: Any) -> int:
            return getattr(worker, "weightopt_version", 0)

        return self._llm.collective_rpc(read)

    def forget(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache")

    def score(self, sequences: Sequence[Sequence[int]]) -> LogProbs:
        greedy = self._vllm.SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        outputs = self._run(sequences, [greedy] * len(sequences))
        return [
            [entry[token].logprob for entry, token in zip(output.prompt_logprobs[1:], sequence[1:], strict=True)]
            for output, sequence in zip(outputs, sequences, strict=True)
        ]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[int],
        temperature: float,
        max_new_tokens: int,
        stop: Sequence[str],
    ) -> list[tuple[list[int], list[float], bool]]:
        """One response to each: tokens, their log-probabilities, and whether it ended at a stop string."""
        settings = [
            self._vllm.SamplingParams(
                temperature=temperature,
                max_tokens=max_new_tokens,
                seed=seed,
                logprobs=0,  # of the sampled token alone
                ignore_eos=True,  # the ends are the policy's, not those that vLLM finds
                stop_token_ids=self._ends,
                stop=list(stop),
                detokenize=bool(stop),
                skip_special_tokens=False,
                spaces_between_special_tokens=False,
            )
            for seed in seeds
        ]
        self.forget()  # or the last bits would depend on what was asked before
        responses = []
        for output in self._run(prompts, settings):
            (response,) = output.outputs
            tokens = list(response.token_ids)
            log_probs = [entry[token].logprob for entry, token in zip(response.logprobs, tokens, strict=True)]
            responses.append((tokens, log_probs, isinstance(response.stop_reason, str)))
        return responses

    def _run(self, prompts: Sequence[Sequence[int]], settings: Sequence[Any]) -> Sequence[Any]:
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        with preserved_globals():
            return self._llm.generate(requests, list(settings), use_tqdm=False)

    def sleep(self) -> None:
        """Give the GPU's memory away until weights are handed over again: those that it has are forgotten."""
        if self._sleeps and not self._asleep:
            self._llm.sleep(level=2)
            self._asleep = True

    def runner(self) -> str:
        """Where the class of vLLM's model runner is from."""

        def read(worker: Any) -> str:
            made = type(worker.model_runner)
            return f"{made.__module__}.{made.__name__}"

        return self._llm.collective_rpc(read)[0]

    def close(self) -> None:
        from vllm.distributed.parallel_state import (  # pyright: ignore[reportMissingImports]
            cleanup_dist_env_and_memory,
        )

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        cleanup_dist_env_and_memory()


def _check_support(policy: Policy, config: SamplerConfig, *, on_cpu: bool) -> None:
    """Say before the engine is built what would fail in the middle of it, or be ignored."""
    if not on_cpu:
        return
    if config.sleep:
        raise UsageError("sampler.sleep gives GPU memory away, and vLLM runs on the CPU here: leave it out")
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend  # pyright: ignore[reportMissingImports]

    shape = policy.model.config.get_text_config()
    head = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    sizes = CPUAttentionBackend.get_supported_head_sizes()
    if head not in sizes:
        raise UsageError(
            f"the model's attention heads have {head} dimensions, and vLLM on a CPU can do "
            f"{', '.join(str(size) for size in sizes)}: choose model.hidden_size / model.heads among these"
        )


@contextmanager
def preserved_globals() -> Iterator[None]:
    """Put back, at the end of a ``with`` block, the global random state and how many threads torch uses.

    vLLM seeds the global generators of Python, numpy and torch when it is built and draws from torch's while it
    samples; on a CPU it also puts a function that does nothing in the place of ``torch.set_num_threads``.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the global generator is the one that is in danger
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_num_threads = set_num_threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextmanager
def _folder_without_weights(policy: Policy) -> Iterator[str]:
    """A temporary folder with the policy's configuration and tokenizer."""
    shape = copy.deepcopy(policy.model.config)
    shape.architectures = shape.architectures or [type(policy.model).__name__]
    with tempfile.TemporaryDirectory() as folder:
        shape.save_pretrained(folder)
        policy.tokenizer.save_pretrained(folder)
        yield folder
