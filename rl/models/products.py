"""Products with a weight matrix on a CPU: oneDNN's in float32.

PyTorch leaves float32 to MKL; oneDNN, which it carries along for bfloat16, is twice as fast on an AMD EPYC with
AVX-512, forward and backward (docs/performance.md). Whatever oneDNN is not there for, or what is not float32 on a CPU,
is left to PyTorch.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# What torch.compile uses; none of PyTorch's public functions reaches oneDNN in float32.
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear(torch.nn.Linear):
    """A `torch.nn.Linear` whose products are those of this module."""

    def forward(self, input: Tensor) -> Tensor:
        """As of `torch.nn.Linear`."""
        return product(input, self.weight, self.bias)


def use_own_products(model: torch.nn.Module) -> None:
    """Let the linear layers of a model multiply as this module does; they keep their weights, names and places."""
    for layer in model.modules():
        # Not what is derived from it: that one may do something else.
        if type(layer) is torch.nn.Linear:
            layer.__class__ = Linear


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b, shapes (..., n), (m, n) and (m,) to (..., m), with gradient, but none of the gradient."""
    fits = _ONEDNN and x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    # A weight that is a part of a larger matrix makes oneDNN fall back on something hundreds of times slower, and a
    # bias with gaps it reads as if it had none.
    whole = _dense(weight) and (bias is None or bias.is_contiguous())
    if not fits or not whole or not x.numel() or not weight.numel() or torch.is_autocast_enabled("cpu"):
        return torch.nn.functional.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (x, weight, bias)):
        return _Product.apply(x, weight, bias)
    return _product(x, weight, bias)


def _dense(matrix: Tensor) -> bool:
    return matrix.is_contiguous() or matrix.t().is_contiguous()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable  # takes the names off the parameters
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        inputs, outputs = x.reshape(-1, x.shape[-1]).t(), grad.reshape(-1, grad.shape[-1]).t()
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = _product(grad, weight.t())
        if ctx.needs_input_grad[1]:
            inputs, outputs = (each if _dense(each) else each.contiguous() for each in (inputs, outputs))
            # The first of the two is copied, so that should be the smaller.
            narrows = weight.shape[0] <= weight.shape[1]
            to_weight = _product(outputs, inputs) if narrows else _product(inputs, outputs).t()
        return to_x, to_weight, outputs.sum(dim=1) if ctx.needs_input_grad[2] else None
