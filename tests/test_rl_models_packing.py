"""Attention of packed texts: the variable-length kernel's places, with a plain loop in the kernel's stead."""

import inspect

import pytest
import torch
import torch.nn.functional as F

from rl.models import packing

GROUPS = [(5, (3, 9)), (12, (1, 20, 7)), (4, (1,)), (3, (1, 2))]  # prompts, and responses of them; some of one token


def looped(query, key, value, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    """What a variable-length kernel computes, sequence by sequence."""
    answer = torch.full_like(query, torch.nan)
    for begin_q, end_q, begin_k, end_k in zip(cu_q[:-1], cu_q[1:], cu_k[:-1], cu_k[1:], strict=True):
        assert 0 < end_q - begin_q <= max_q
        assert 0 < end_k - begin_k <= max_k
        q, k, v = query[begin_q:end_q], key[begin_k:end_k], value[begin_k:end_k]
        gap = torch.arange(len(q)).view(-1, 1) + len(k) - len(q) - torch.arange(len(k))
        seen = (gap >= 0) & ((gap <= window_size[0]) if window_size[0] >= 0 else True)
        q, k, v = (each.transpose(0, 1) for each in (q, k, v))
        answer[begin_q:end_q] = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale).transpose(0, 1)
    return answer


@pytest.mark.parametrize("window", [None, 4])
def test_the_kernel_is_given_the_places_that_the_grid_has(window, monkeypatch):
    monkeypatch.setattr(packing, "varlen", lambda: looped)
    packed = packing.Packed(
        [range(length) for length, _ in GROUPS],
        [number for number, (_, some) in enumerate(GROUPS) for _ in some],
        [range(length) for _, some in GROUPS for length in some],
        device=torch.device("cpu"),
    )
    total = packed.tokens.shape[1]
    torch.manual_seed(0)
    query, key, value = (torch.randn(total, heads, 8, dtype=torch.float64) for heads in (4, 2, 2))
    given = [each.clone().requires_grad_() for each in (query, key, value)]
    places, sizes = packed.kernel
    fast = packing._kernel(given[0], places.spread(given[1]), places.spread(given[2]), sizes, 0.3, window)
    again = [each.clone().requires_grad_() for each in (query, key, value)]
    plain = packed.attend(*again, lambda *x: packing._products(*x, scale=0.3, cap=None), window)
    torch.testing.assert_close(fast, plain)
    direction = torch.randn_like(fast)
    gradients = [torch.autograd.grad((answer * direction).sum(), of) for answer, of in ((fast, given), (plain, again))]
    torch.testing.assert_close(*gradients)


def test_the_loop_takes_what_the_kernel_of_torch_takes():
    attend = packing.varlen()
    if attend is None:
        pytest.skip("this torch has no variable-length attention with windows")
    assert {"scale", "window_size"} <= set(inspect.signature(attend).parameters)
