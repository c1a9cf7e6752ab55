"""Activation checkpointing of any diffusers network, frozen and in eval mode, switched on for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils import checkpoint

# Lists of a network's parts that are evaluated one after another.
_LISTS = frozenset(
    ("resnets", "attentions", "downsamplers", "upsamplers", "transformer_blocks", "single_transformer_blocks")
)


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return the parts of a network that are checkpointed: residual blocks, attention, resampling.

    No part lies inside another. A part that is a list of several others, as SDXL's ten transformer blocks in one, is
    taken apart.
    """
    found: list[nn.Module] = []
    for name, child in network.named_children():
        if isinstance(child, nn.ModuleList) and name in _LISTS:
            for block in filter(None, child):  # without attention diffusers lists None
                inner = blocks(block)
                found += inner if len(inner) > 1 else [block]
        else:
            found += blocks(child)
    return found


@contextmanager
def checkpointed(network: nn.Module, *, keep_convolutions: bool = False) -> Iterator[None]:
    """Let the blocks of a network keep only their inputs; the backward pass evaluates them again.

    Frozen convolutions keep nothing at all. diffusers' own switch needs training mode in some of its versions, and
    covers fewer blocks; this one leaves the network as it found it. A second time inside itself it changes nothing.

    Arguments:
        network: A U-Net, transformer or decoder of diffusers.
        keep_convolutions: Keep also what the first of a residual block's two convolutions returns. The second is not
            needed again, so that only the cheap operations between them are: more memory, for little time.
    """
    forwards = {
        block: _Again(block, keep_convolutions and hasattr(block, "conv2"))
        for block in blocks(network)
        if not isinstance(block.__dict__.get("forward"), _Again)
    }
    with frozen_convolutions(network), _replaced(forwards):
        yield


@contextmanager
def frozen_convolutions(network: nn.Module) -> Iterator[None]:
    """Let the convolutions of a network not keep their inputs, which only the gradient of their weights would need."""
    found = [module for module in network.modules() if _is_frozen_convolution(module)]
    with _replaced({module: partial(_InputGradient.apply, module.forward, module) for module in found}):
        yield


@contextmanager
def _replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    own = {module: module.__dict__.get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, forward in own.items():
            del module.forward
            if forward is not None:
                module.forward = forward


class _Again:
    """The forward of a block, evaluated again when its gradient is taken, perhaps after the context was left."""

    def __init__(self, block: nn.Module, keep_convolutions: bool) -> None:
        self.block, self.forward = block, block.forward
        self.contexts = _keeping_first_convolution if keep_convolutions else checkpoint.noop_context_fn

    def __call__(self, *args: Any, **more: Any) -> Any:
        given = (*args, *more.values())
        if not torch.is_grad_enabled() or not any(isinstance(a, Tensor) and a.requires_grad for a in given):
            return self.forward(*args, **more)
        # Frozen networks draw nothing at random.
        return checkpoint.checkpoint(
            self.evaluate, *args, use_reentrant=False, preserve_rng_state=False, context_fn=self.contexts, **more
        )

    def evaluate(self, *args: Any, **more: Any) -> Any:
        with frozen_convolutions(self.block):
            return self.forward(*args, **more)


def _keeping_first_convolution() -> Any:
    seen = {False: 0, True: 0}  # in the forward pass, and again

    def policy(context: Any, operation: Any, *args: Any, **more: Any) -> checkpoint.CheckpointPolicy:
        # As an operation, so that it is found below autocast and above every backend's own convolution.
        if operation is torch.ops.aten.convolution.default:
            seen[context.is_recompute] += 1
            if seen[context.is_recompute] == 1:
                return checkpoint.CheckpointPolicy.MUST_SAVE
        return checkpoint.CheckpointPolicy.PREFER_RECOMPUTE

    return checkpoint.create_selective_checkpoint_contexts(policy)


class _InputGradient(torch.autograd.Function):
    """A convolution that is differentiated with respect to its input only."""

    @staticmethod
    def forward(ctx: Any, forward: Callable[[Tensor], Tensor], convolution: nn.Conv2d, x: Tensor) -> Tensor:
        ctx.shape, ctx.convolution = x.shape, convolution
        return forward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        own = ctx.convolution
        shape = (own.stride, own.padding, own.dilation, own.groups)
        return None, None, nn.grad.conv2d_input(ctx.shape, own.weight, gradient, *shape)


def _is_frozen_convolution(module: nn.Module) -> bool:
    plain = type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return plain and "forward" not in module.__dict__ and not any(w.requires_grad for w in module.parameters())
