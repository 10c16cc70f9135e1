"""A policy whose trained weights, gradients and optimizer state are shared out over processes: FSDP2.

Each process holds 1/n of every weight. A layer is gathered when it is computed, forward and backward, and let go
afterwards; gradients are added up over the processes, since the loss of each already has the denominator of the whole
step. A forward or backward pass is therefore something that all processes do together, and each must do as many: one
that has less to compute makes up for it with passes that count for nothing (`idle`).

The whole computation of log-probabilities is the forward pass of one module, so that embeddings and output layer are
there for all of it: it calls parts of the model one by one, and the model more than once.
"""

from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rl.models.lora import MergedWeights
from rl.models.output_layer import OutputLayer
from rl.models.policy import Policy
from rl.processes.ranks import Ranks


class Computation(torch.nn.Module):
    """A module whose forward pass is whatever is asked for; its parameters are those of a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], Tensor]) -> Tensor:
        """The answer of ``compute``, which uses the model."""
        return compute()


@dataclass(frozen=True, kw_only=True)
class ShardedPolicy(Policy):
    """A `Policy` that all processes hold a part of; what is said below to be done together, all must do.

    It has no ``adapter`` to be switched off or saved: `whole` has one.

    Attributes
    ----------
    local
        The policy that was sharded; its model is the sharded one.
    root
        The module through which the model is computed.
    mould
        The policy as it was, without weights.
    parameters
        The trained parameters: a `DTensor` each, of which this process holds a part.
    """

    local: Policy
    root: Computation
    mould: Policy
    parameters: Mapping[str, torch.nn.Parameter] = field(default_factory=dict)
    ranks: Ranks

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that are trained, by name."""
        return dict(self.parameters)

    def token_log_probs(
        self,
        prompts: Sequence[Sequence[int]],
        owner: Sequence[int],
        responses: Sequence[Sequence[int]],
        *,
        temperature: float = 1.0,
    ) -> Tensor:
        """As `Policy.token_log_probs`, of responses of one's own; done together."""
        return self.root(lambda: self.local.token_log_probs(prompts, owner, responses, temperature=temperature))

    def published_weights(self) -> Mapping[str, Tensor]:
        """As `Policy.published_weights`, gathered one after the other when they are looked at; done together."""
        if self.local.adapter is not None:
            return MergedWeights(self.local.model, gathered)
        return GatheredWeights(self.local.model.state_dict())

    def without_weights(self) -> Policy:
        """The policy as it was before it was sharded, without weights."""
        return self.mould.without_weights()

    def whole(self) -> Policy | None:
        """The policy as one process would hold it, for the leading process, on the CPU; done together."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights: Any = get_model_state_dict(self.local.model, options=options)  # none for the others
        return self.without_weights().filled(weights, torch.device("cpu")) if self.ranks.leading else None


class GatheredWeights(UserDict[str, Tensor]):
    """Whole tensors from those of which each process holds a part; all must look at the same ones in the same order."""

    def __getitem__(self, name: str) -> Tensor:
        return gathered(self.data[name])


def shard(opened: Callable[[], Policy], ranks: Ranks) -> Policy:
    """A policy whose weights are shared out over the processes, of which only the first opens it; done together.

    The others begin without weights, and each tensor is told to all and cut: the memory of the host holds one model,
    that of each device a part of it and one tensor. With one process it is the policy that is opened.
    """
    return opened() if ranks.size == 1 else shard_over(opened, ranks)


def beside(policy: Policy, opened: Callable[[], Policy]) -> Policy:
    """A second policy, whole in each process that has a part of the first, and opened by one alone; done together."""
    if not isinstance(policy, ShardedPolicy):
        return opened()
    _, local, weights, device = _opened_by_one(opened, policy.ranks)
    _fill(local.model, local.model, weights, device)
    return local


def _opened_by_one(
    opened: Callable[[], Policy], ranks: Ranks
) -> tuple[Policy, Policy, Mapping[str, Tensor], torch.device]:
    """Twice the policy without weights; these, which the first process alone has; and the device that they are for."""
    weights: Mapping[str, Tensor] = {}
    about: tuple[Policy, bool, torch.device] | None = None
    if ranks.leading:
        policy = opened()
        separable, device = policy.output_layer.separable, policy.device
        policy.model.to("cpu")  # type: ignore[arg-type]
        weights = dict(policy.model.named_parameters())
        about = policy.without_weights(), separable, device
    mould, separable, device = next(each for each in ranks.gather(about) if each is not None)
    local = mould.without_weights()
    local.__dict__["output_layer"] = OutputLayer(local.model, separable=separable)
    return mould, local, weights, device


def shard_over(opened: Callable[[], Policy], ranks: Ranks) -> ShardedPolicy:
    """The same also with one process."""
    mould, local, weights, device = _opened_by_one(opened, ranks)
    mesh = init_device_mesh(device.type, (ranks.size,))
    root = Computation(local.model)
    layers = [module for module in local.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for module in (*layers, root):
        # The last one, too: else its weights would still be there, and be old, after the next update.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
        assert isinstance(module, FSDPModule)
        # Not their mean; and gloo has no sum with a factor.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    _fill(root, local.model, weights, device)
    return ShardedPolicy(
        model=local.model,
        tokenizer=local.tokenizer,
        settings=local.settings,
        notes=local.notes,
        local=local,
        root=root,
        mould=mould,
        parameters=local.trained(),
        ranks=ranks,
    )


@torch.no_grad()
def _fill(root: torch.nn.Module, model: PreTrainedModel, weights: Mapping[str, Tensor], device: torch.device) -> None:
    """Give a model without weights those that the first process has, one after the other."""
    buffers = {name: buffer.to(device) for name, buffer in model.named_buffers()}
    root.to_empty(device=device)
    model.tie_weights()
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    for name, parameter in model.named_parameters():
        if weights:
            value = weights[name].detach().to(device)
        else:
            value = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        dist.broadcast(value, src=0)
        parameter.copy_(parted_like(value, parameter))


def idle(policy: Policy, passes: int, *, backward: bool) -> None:
    """Take part in passes of the others without anything to compute."""
    if not isinstance(policy, ShardedPolicy):
        return
    token = policy.end_tokens[0]
    for _ in range(passes):
        with torch.set_grad_enabled(backward):
            nothing = 0 * policy.token_log_probs([(token,)], [0], [(token, token)]).sum()
        if backward:
            nothing.backward()


def whole(policy: Policy) -> Policy | None:
    """The policy as one process holds it; None for all but the leading of several."""
    return policy.whole() if isinstance(policy, ShardedPolicy) else policy


def gathered(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes, if this one has only a part; then done together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor; all of it if it is not shared out."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def parted_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, which all processes have, on the device of another and shared out as that one is."""
    tensor = tensor.to(other.device)
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)
