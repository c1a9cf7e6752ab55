"""Ways of taking the gradients of a rollout: the same numbers, for different amounts of memory and time."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import torch
from torch import Tensor

from guideflow.errors import InvalidArgument, OutOfMemory
from guideflow.memory import alive_bytes, available_bytes, kept_bytes, ran_out, release

MODES: Final = ("full", "windowed", "checkpointed")
# What is left free is for what backward passes need for a moment.
_SHARE: Final = 0.8


class Verdict(NamedTuple):
    """What is seen at the end of a trajectory: images, the loss of each, and its terms by name."""

    images: Tensor
    loss: Tensor
    terms: Mapping[str, Tensor]


class Trace(NamedTuple):
    """A trajectory z_0..z_K with its end points e_1..e_K, its verdict and the gradients g_0..g_K, if taken."""

    states: list[Tensor]
    end_points: list[Tensor]
    verdict: Verdict
    gradients: list[Tensor] | None


@dataclass
class Chain:
    """The maps of one rollout.

        e_{k+1} = step(k, z_k),   z_{k+1} = e_{k+1} + control(k, e_{k+1}),   verdict = judge(decode(z_K))

    Arguments:
        length: number of steps K.
        step: map k, from 0.
        control: what is added after it, given the detached end point.
        decode: final state to images.
        judge: images to loss.
        differentiate: of a verdict's loss with respect to states, the last of which is z_K.
        checkpointing: the sampler's context manager of that name.

    `steps_taken` counts how often a step was evaluated.
    """

    length: int
    step: Callable[[int, Tensor], Tensor]
    control: Callable[[int, Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    judge: Callable[[Tensor], Verdict]
    differentiate: Callable[[Tensor, list[Tensor]], list[Tensor]]
    checkpointing: Callable[[bool], AbstractContextManager[None]]
    steps_taken: int = field(default=0, init=False)

    def end_point(self, k: int, z: Tensor) -> Tensor:
        """Apply map k."""
        self.steps_taken += 1
        return self.step(k, z)

    def walk(self, states: list[Tensor], end_points: list[Tensor], until: int) -> None:
        """Extend a trajectory to z_until."""
        for k in range(len(end_points), until):
            end_points.append(self.end_point(k, states[k]))
            states.append(end_points[k] + self.control(k, end_points[k].detach()))


def forward(chain: Chain, z0: Tensor) -> Trace:
    """Run without gradients."""
    states, end_points = [z0], list[Tensor]()
    with torch.no_grad():
        chain.walk(states, end_points, chain.length)
        return Trace(states, end_points, chain.judge(chain.decode(states[-1])), None)


def full(chain: Chain, z0: Tensor) -> Trace:
    """Differentiate one graph of everything: fastest, and the memory of all windows and the decoder together."""
    states, end_points = [_leaf(z0)], list[Tensor]()
    with torch.enable_grad():
        chain.walk(states, end_points, chain.length)
        verdict = chain.judge(chain.decode(states[-1]))
    return Trace(states, end_points, verdict, chain.differentiate(verdict.loss, states))


def windowed(chain: Chain, z0: Tensor) -> Trace:
    """Differentiate window by window, from the last to the first, each built again from its stored first state.

        g_k = (dF_{k+1}/dz at z_k)^T g_{k+1},    k = K-2..0

    The memory of one window and the checkpointed decoder; one more forward evaluation of every window but the last,
    which is differentiated together with decoder and loss.
    """
    states, end_points = [z0], list[Tensor]()
    with torch.no_grad():
        chain.walk(states, end_points, chain.length - 1)
    states[-1] = _leaf(states[-1])
    with torch.enable_grad():
        chain.walk(states, end_points, chain.length)
        with chain.checkpointing(False):
            images = chain.decode(states[-1])
        verdict = chain.judge(images)
    gradients = chain.differentiate(verdict.loss, states[-2:])
    return Trace(states, end_points, verdict, _backwards(chain, states, gradients))


def checkpointed(chain: Chain, z0: Tensor) -> Trace:
    """Differentiate decoder and loss, then window by window, each by itself and checkpointed inside: least memory.

    One more forward evaluation of every window, and another of most of the networks in the backward pass.
    """
    states, end_points = [z0], list[Tensor]()
    with chain.checkpointing(True):
        with torch.no_grad():
            chain.walk(states, end_points, chain.length)
        states[-1] = _leaf(states[-1])
        with torch.enable_grad():
            verdict = chain.judge(chain.decode(states[-1]))
        gradients = chain.differentiate(verdict.loss, states[-1:])
        return Trace(states, end_points, verdict, _backwards(chain, states, gradients))


_METHODS: Final = {"full": full, "windowed": windowed, "checkpointed": checkpointed}


@dataclass
class Plan:
    """Which way is taken; what `auto` has found out is remembered here.

    Arguments:
        chosen: the mode of the latest gradients, None before the first.
    """

    chosen: str | None = None

    def run(self, chain: Chain, z0: Tensor, mode: str, limit: float | None) -> Trace:
        """Take the gradients in a mode, "auto" among them, within a limit of bytes (None: what the device has).

        Raises:
            OutOfMemory: if the memory does not suffice for the mode, or for any.
        """
        if mode != "auto":
            self.chosen = mode
        elif self.chosen is None:
            self.chosen = choose(chain, z0, limit)
        while True:
            try:
                return _METHODS[self.chosen or mode](chain, z0)
            except Exception as error:
                if not ran_out(error):
                    raise
                following = MODES[MODES.index(self.chosen or mode) + 1 :]
                if mode != "auto" or not following:
                    raise _out_of_memory(self.chosen or mode, error) from error
                self.chosen = following[0]
            # Only here the failed attempt's graph is gone.
            release(z0.device)


def choose(chain: Chain, z0: Tensor, limit: float | None) -> str:
    """Choose the fastest mode that fits, from what the first window, the decoder and the loss keep for their gradients.

        full: K window + decoder + loss    windowed: window + checkpointed decoder + loss    otherwise: checkpointed

    Costs one evaluation of all steps, and up to two of decoder and loss, before the first gradients.

    Arguments:
        chain: the maps.
        z0: first state.
        limit: bytes that gradients may keep; None for 80% of what the device has left.
    """
    budget = _SHARE * available_bytes(z0.device) if limit is None else limit
    try:
        first = _leaf(z0)
        end_point, window = kept_bytes(lambda: chain.end_point(0, first))
        states, end_points = [z0, end_point + chain.control(0, end_point)], [end_point]
        with torch.no_grad():
            chain.walk(states, end_points, chain.length)
        last = _leaf(states[-1])
        pictures, decoder = kept_bytes(lambda: chain.decode(last))
        image = _leaf(pictures)
        # Not dropped: a loss may take gradients of its own.
        loss = alive_bytes(lambda: chain.judge(image).loss)
        if chain.length * window + decoder + loss <= budget:
            return "full"
        with chain.checkpointing(False):
            decoder = alive_bytes(lambda: chain.decode(last))
        return "windowed" if window + decoder + loss <= budget else "checkpointed"
    except Exception as error:
        if not ran_out(error):
            raise
        return "checkpointed"


def require_mode(mode: str, limit: float | None) -> None:
    """Refuse an unknown mode and a limit below 0."""
    if mode not in ("auto", *MODES):
        raise InvalidArgument(f"Got gradient_mode = {mode!r}. Expected 'auto', 'full', 'windowed' or 'checkpointed'.")
    if limit is not None and not limit >= 0:
        raise InvalidArgument(f"Got memory_limit = {limit!r}. Expected bytes, as in 4e9, or None for what is free.")


def _backwards(chain: Chain, states: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """Extend gradients g_j..g_K back to g_0..g_K, one window at a time."""
    for k in reversed(range(len(states) - len(gradients))):
        gradients.insert(0, _pull_back(chain, k, states[k], gradients[0]))
    return gradients


def _pull_back(chain: Chain, k: int, z: Tensor, gradient: Tensor) -> Tensor:
    start = _leaf(z)
    with torch.enable_grad():
        end_point = chain.end_point(k, start)
    if not end_point.requires_grad:
        return torch.zeros_like(z)
    (found,) = torch.autograd.grad(end_point, start, gradient.to(end_point.dtype), allow_unused=True)
    return torch.zeros_like(z) if found is None else found.to(z.dtype)


def _leaf(z: Tensor) -> Tensor:
    return z.detach().clone().requires_grad_()


def _out_of_memory(mode: str, error: Exception) -> OutOfMemory:
    cure = "Give gradient_mode='auto', which takes" if mode != MODES[-1] else "Take"
    less = " less memory and more time," if mode != MODES[-1] else ""
    return OutOfMemory(
        f"There is not enough memory for {mode!r} gradients: {str(error).splitlines()[0] if str(error) else error!r}. "
        f"{cure}{less} {'or take ' if less else ''}fewer images at a time or a smaller picture."
    )
