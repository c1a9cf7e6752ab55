"""Ways of taking the gradients of a rollout: the same numbers, for different amounts of memory and time."""

import gc
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Final, NamedTuple, TypeAlias

import torch
from torch import Tensor

from guideflow.errors import OutOfMemory
from guideflow.losses.evaluation import Evaluation
from guideflow.memory import alive_bytes, available_bytes, enough_for, kept_bytes, ran_out
from guideflow.sampler import Sampler

MODES: Final = ("full", "windowed", "checkpointed")
"""From the fastest to the one that keeps least."""

# Backward passes need some memory for a moment: it is left free for them.
_SHARE: Final = 0.8

Control: TypeAlias = Callable[[int, Tensor], Tensor]
"""What is added after step k, given k and the detached end point."""


class Maps(ABC):
    """The maps of a rollout, as a `Problem` has them."""

    sampler: Sampler

    @abstractmethod
    def step(self, k: int, z: Tensor) -> Tensor:
        """Apply step k, from 0."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Turn final states into images."""

    @abstractmethod
    def evaluate(self, images: Tensor) -> Evaluation:
        """Evaluate the loss."""

    @abstractmethod
    def differentiate(self, objective: Tensor, states: list[Tensor]) -> list[Tensor]:
        """Differentiate the scaled objective with respect to states, the last of which is z_K."""


class Path:
    """States z_0..z_k and end points e_1..e_k so far.

        e_{k+1} = step(k, z_k),   z_{k+1} = e_{k+1} + control(k, e_{k+1})

    `evaluations` counts the steps taken.
    """

    def __init__(self, maps: Maps, z0: Tensor, control: Control) -> None:
        self.maps, self.control, self.evaluations = maps, control, 0
        self.states, self.end_points = [z0], list[Tensor]()

    def end_point(self, k: int, z: Tensor) -> Tensor:
        """Apply step k."""
        self.evaluations += 1
        return self.maps.step(k, z)

    def run(self, until: int) -> None:
        """Go on to z_until."""
        for k in range(len(self.end_points), until):
            self.end_points.append(self.end_point(k, self.states[k]))
            self.states.append(self.end_points[k] + self.control(k, self.end_points[k].detach()))


class Trajectory(NamedTuple):
    """A whole trajectory, what was seen at its end, and the gradients g_0..g_K, if taken."""

    path: Path
    images: Tensor
    evaluation: Evaluation
    gradients: list[Tensor] | None


def forward(maps: Maps, z0: Tensor, control: Control) -> Trajectory:
    """Run without gradients."""
    path = Path(maps, z0, control)
    with (
        enough_for("the pictures alone, without gradients", "fewer images at a time, or a smaller image size"),
        torch.no_grad(),
    ):
        path.run(maps.sampler.num_steps)
        images = maps.decode(path.states[-1])
        found = maps.evaluate(images)
    return Trajectory(path, images, found, None)


def full(maps: Maps, z0: Tensor, control: Control) -> Trajectory:
    """Differentiate one graph of everything: fastest, and the memory of all steps and the decoder together."""
    path = Path(maps, _leaf(z0), control)
    with torch.enable_grad():
        path.run(maps.sampler.num_steps)
        images = maps.decode(path.states[-1])
        found = maps.evaluate(images)
    return Trajectory(path, images, found, maps.differentiate(found.objective, path.states))


def windowed(maps: Maps, z0: Tensor, control: Control) -> Trajectory:
    """Differentiate step by step, from the last to the first, each built again from its stored first state.

        g_k = (dF_{k+1}/dz at z_k)^T g_{k+1},    k = K-2..0

    The memory of one step and the checkpointed decoder; one more forward evaluation of every step but the last, which
    is differentiated together with decoder and loss.
    """
    path = Path(maps, z0, control)
    with torch.no_grad():
        path.run(maps.sampler.num_steps - 1)
    path.states[-1] = _leaf(path.states[-1])
    with torch.enable_grad():
        path.run(maps.sampler.num_steps)
        with maps.sampler.checkpointing(False):
            images = maps.decode(path.states[-1])
        found = maps.evaluate(images)
    return Trajectory(path, images, found, _backwards(path, maps.differentiate(found.objective, path.states[-2:])))


def checkpointed(maps: Maps, z0: Tensor, control: Control) -> Trajectory:
    """Differentiate decoder and loss, then step by step, each by itself and checkpointed inside: least memory.

    One more forward evaluation of every step, and another of most of the networks in the backward pass.
    """
    path = Path(maps, z0, control)
    with maps.sampler.checkpointing(True):
        with torch.no_grad():
            path.run(maps.sampler.num_steps)
        path.states[-1] = _leaf(path.states[-1])
        with torch.enable_grad():
            images = maps.decode(path.states[-1])
            found = maps.evaluate(images)
        return Trajectory(path, images, found, _backwards(path, maps.differentiate(found.objective, path.states[-1:])))


_METHODS: Final = {"full": full, "windowed": windowed, "checkpointed": checkpointed}


def differentiate(maps: Maps, z0: Tensor, control: Control, mode: str) -> Trajectory:
    """Take the gradients in one of `MODES`, or raise `OutOfMemory`."""
    older = _older_graph()
    try:
        return _METHODS[mode](maps, z0, control)
    except Exception as error:
        if not ran_out(error):
            raise
        torch.autograd.grad(*older)
        why = f"There is not enough memory for {mode!r} gradients ({(str(error) or repr(error)).splitlines()[0]}). Give"
        cure = "for less memory and more time, fewer images at a time, or a smaller image size."
        typed = f"{why} --gradient-mode auto {cure}"
        raise OutOfMemory(f"{why} gradient_mode='auto' {cure}").as_typed(typed) from error


def _older_graph() -> tuple[Tensor, Tensor]:
    """Return a graph whose backward pass lets go of one that is made later, and runs out of memory on its way back.

    What a backward pass had still to do waits in a queue of the thread, with the graph, until another one takes it from
    there; and what was made later comes first.
    """
    with torch.enable_grad():
        start = torch.ones((), requires_grad=True)
        return start * 1, start


def choose(maps: Maps, z0: Tensor, control: Control, limit: float | None) -> str:
    """Choose the fastest mode that fits, from what the first step, the decoder and the loss keep for their gradients.

        full        K step + decoder + loss
        windowed    step + checkpointed decoder + loss
        otherwise checkpointed

    Fits, that is into so many bytes, or for None into 80% of what the device has left; a mode for which memory runs out
    while this is measured does not. Costs one evaluation of all steps, and up to two of decoder and loss.
    """
    budget = _SHARE * available_bytes(z0.device) if limit is None else limit
    needs = _Needs(maps, z0, control)
    for mode, following, bytes_of in zip(MODES, MODES[1:], (needs.full, needs.windowed), strict=False):
        try:
            if bytes_of() <= budget:
                return mode
            continue
        except Exception as error:
            if not ran_out(error):
                raise
        go_on_with_less(mode, following)  # outside the handler, which holds on to the failed attempt
    return MODES[-1]


class _Needs:
    """Bytes that the modes keep; what two of them need is measured once."""

    def __init__(self, maps: Maps, z0: Tensor, control: Control) -> None:
        self.maps, self.path = maps, Path(maps, z0, control)

    def full(self) -> float:
        steps = self.maps.sampler.num_steps * self.step
        self.images, decoder = kept_bytes(lambda: self.maps.decode(self.last))
        return steps + decoder + self.loss

    def windowed(self) -> float:
        step = self.step
        with self.maps.sampler.checkpointing(False):
            decoder = alive_bytes(lambda: self.maps.decode(self.last))
        return step + decoder + self.loss

    @cached_property
    def step(self) -> float:
        path, first = self.path, _leaf(self.path.states[0])
        end_point, kept = kept_bytes(lambda: path.end_point(0, first))
        path.states.append(end_point + path.control(0, end_point))
        path.end_points.append(end_point)
        return kept

    @cached_property
    def last(self) -> Tensor:
        with torch.no_grad():
            self.path.run(self.maps.sampler.num_steps)
        return _leaf(self.path.states[-1])

    @cached_property
    def images(self) -> Tensor:
        with torch.no_grad():
            return self.maps.decode(self.last)

    @cached_property
    def loss(self) -> float:
        image = _leaf(self.images)
        # Alive, not kept: a loss may take gradients of its own, which needs its graph.
        return alive_bytes(lambda: self.maps.evaluate(image).objective)


def go_on_with_less(mode: str, following: str) -> None:
    """Say that memory has run out in a mode, and give back what can be."""
    gc.collect()  # the attempt's graph hangs on the error's traceback, which refers to itself
    torch.cuda.empty_cache()
    warnings.warn(
        f"There is not enough memory for {mode!r} gradients. The solve goes on with {following!r} ones: the same "
        "images, in more time.",
        stacklevel=3,
    )


def _backwards(path: Path, gradients: list[Tensor]) -> list[Tensor]:
    """Extend gradients g_j..g_K back to g_0..g_K, one step at a time."""
    for k in reversed(range(len(path.states) - len(gradients))):
        gradients.insert(0, _pull_back(path, k, gradients[0]))
    return gradients


def _pull_back(path: Path, k: int, gradient: Tensor) -> Tensor:
    start = _leaf(path.states[k])
    with torch.enable_grad():
        end_point = path.end_point(k, start)
    if not end_point.requires_grad:
        return torch.zeros_like(start)
    (found,) = torch.autograd.grad(end_point, start, gradient.to(end_point.dtype), allow_unused=True)
    return torch.zeros_like(start) if found is None else found.to(start.dtype)


def _leaf(z: Tensor) -> Tensor:
    return z.detach().clone().requires_grad_()
