"""Activation checkpointing of any diffusers network, frozen and in eval mode, without a change to the network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils import checkpoint

# Lists of a network's parts that are evaluated one after another; the last three are of Z-Image.
_LISTS = frozenset(
    (
        "resnets",
        "attentions",
        "downsamplers",
        "upsamplers",
        "transformer_blocks",
        "single_transformer_blocks",
        "layers",
        "noise_refiner",
        "context_refiner",
    )
)
_OF_VIDEO = frozenset(("QwenImageDecoder3d",))
"""Decoders that hand on, from frame to frame, what their blocks saw. A frame by itself neither reads nor needs it."""

_TWINS: ContextVar[Mapping[int, nn.Module]] = ContextVar("twins", default=MappingProxyType({}))
"""By the identity of a network, what stands for it in this thread."""


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
        elif isinstance(child, nn.ModuleList) and child and all(isinstance(part, nn.Sequential) for part in child):
            found += [block for part in child for block in part]  # of AutoencoderDC
        else:
            found += blocks(child)
    return found


@contextmanager
def checkpointed(network: nn.Module, *, keep_convolutions: bool = False) -> Iterator[None]:
    """Let `active(network)`, in this thread, be a twin whose blocks keep only their inputs.

    The backward pass evaluates them again; frozen convolutions keep nothing at all. The twin has the network's own
    weights, and the network itself stays as it is, for other threads and other pipelines. diffusers' own switch is one
    for all threads, needs training mode in some of its versions, and covers fewer blocks.

    Arguments:
        network: A U-Net, transformer or autoencoder of diffusers.
        keep_convolutions: Keep also what the first of a residual block's two convolutions returns. The second is not
            needed again, so that only the cheap operations between them are: more memory, for little time.
    """
    token = _TWINS.set({**_TWINS.get(), id(network): twin(network, keep_convolutions)})
    try:
        yield
    finally:
        _TWINS.reset(token)


def active(network: Any) -> Any:
    """Return what to evaluate in place of a network in this thread: its checkpointed twin, or itself."""
    return _TWINS.get().get(id(network), network)


def uncompiled(network: Any) -> Any:
    """Return the module that `torch.compile` was given, whose signature and children the compiled one hides."""
    return getattr(network, "_orig_mod", network)


def twin(
    network: nn.Module, keep_convolutions: bool = False, *, chosen: Collection[nn.Module] | None = None
) -> nn.Module:
    """Copy the modules of a network, but not their weights, and checkpoint the copies' blocks, or chosen ones."""
    network = uncompiled(network)
    chosen, copies = set(blocks(network) if chosen is None else chosen), dict[nn.Module, nn.Module]()

    def copied(module: nn.Module) -> nn.Module:
        if module not in copies:
            copies[module] = copy = object.__new__(type(module))
            copy.__dict__ = module.__dict__ | {"_modules": dict(module._modules)}
            copy.__dict__.pop("_compiled_call_impl", None)  # which is the original's
            inside = ((name, child) for name, child in module._modules.items() if child is not None)
            copy._modules.update((name, copied(child)) for name, child in inside)
            if _is_frozen_convolution(module):
                copy.__dict__["forward"] = partial(_InputGradient.apply, module.forward, module)
            elif module in chosen:
                copy.__dict__["forward"] = _Again(copy, keep_convolutions and hasattr(module, "conv2"))
            elif type(module).__name__ in _OF_VIDEO:
                copy.__dict__["forward"] = partial(_one_frame, copy.forward)
        return copies[module]

    return copied(network)


def _one_frame(forward: Callable[[Tensor], Tensor], x: Tensor, feat_cache: Any = None, feat_idx: Any = None) -> Tensor:
    """Decode one frame without the memory of earlier ones, which a block that is evaluated again would find changed."""
    return forward(x)


class _Again:
    """The forward of a block, evaluated again when its gradient is taken."""

    def __init__(self, block: nn.Module, keep_convolutions: bool) -> None:
        self.forward = block.forward  # of the copy, before this one takes its place
        self.contexts = _keeping_first_convolution if keep_convolutions else checkpoint.noop_context_fn

    def __call__(self, *args: Any, **more: Any) -> Any:
        given = (*args, *more.values())
        if not torch.is_grad_enabled() or not any(isinstance(a, Tensor) and a.requires_grad for a in given):
            return self.forward(*args, **more)
        # Frozen networks draw nothing at random.
        return checkpoint.checkpoint(
            self.forward, *args, use_reentrant=False, preserve_rng_state=False, context_fn=self.contexts, **more
        )


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
