"""The reference of the penalty on the divergence: a policy that stays as it was.

With LoRA and the start model for a reference it is the trained policy with its adapter switched off, and takes no
memory. Otherwise, and with several processes, it is a second model, read by one and whole in each, held and computed as
the trained one is: from the start model the two begin equal but for rounding (torch picks a product by who wants a
gradient). On resume it is read again from its folder, so it needs no place in a checkpoint; ``run.json`` has the
checksum of its weights.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rl.errors import UsageError
from rl.learning.config import KlConfig
from rl.models.config import LoraConfig
from rl.models.policy import Policy, load_policy
from rl.models.start import start_folder
from rl.processes.sharded import beside


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A policy that is not trained.

    Attributes
    ----------
    policy
        A second model; or the trained one, whose adapter is switched off for the length of a call.
    """

    policy: Policy
    kl: KlConfig

    @torch.no_grad()
    def token_log_probs(
        self,
        prompts: Sequence[Sequence[int]],
        owner: Sequence[int],
        responses: Sequence[Sequence[int]],
        *,
        temperature: float,
    ) -> Tensor:
        """As `rl.models.policy.Policy.token_log_probs`, without gradient."""
        adapter = self.policy.adapter
        with nullcontext() if adapter is None else adapter.wrapped.disable_adapter():
            return self.policy.token_log_probs(prompts, owner, responses, temperature=temperature)


def open_reference(kl: KlConfig, lora: LoraConfig, policy: Policy, start: Path) -> Reference | None:
    """The reference of a run that trains ``policy`` from the model in ``start``; None without a penalty.

    Raises
    ------
    UsageError
        If the reference cannot be read, or does not know the tokens of the policy by the same numbers.
    """
    if not kl.coefficient:
        return None
    if kl.reference is None and policy.adapter is not None:
        return Reference(policy=policy, kl=kl)
    folder = start if kl.reference is None else start_folder(kl.reference, key="kl.reference")
    # Nothing is kept for a backward pass, so nothing has to be computed again.
    settings = policy.settings.model_copy(update={"gradient_checkpointing": False})
    dtype = torch.bfloat16 if lora.rank and settings.precision == "bf16" else torch.float32
    reference = beside(policy, lambda: load_policy(folder, settings, device=policy.device, dtype=dtype))
    if reference.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise UsageError(f"kl.reference {str(folder)!r} has another tokenizer than the start model")
    reference.model.requires_grad_(False)
    return Reference(policy=reference, kl=kl)
