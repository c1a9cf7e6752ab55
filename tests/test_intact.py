"""A plugin that changes what it is given is refused by name, and nobody else goes by the changed numbers."""

from typing import Any

import pytest
import torch
from torch import Tensor

import guideflow as gf
from guideflow.errors import InvalidArgument, InvalidLoss
from guideflow.toy import ToyMixture
from problems import Distance, mixture, target


def plain(**options: Any) -> gf.Solution:
    sampler = mixture()
    return gf.solve(sampler, Distance(target(sampler)), candidates=1, **options)


class Late:
    """Acts from its n-th call on."""

    def __init__(self, at: int, act: Any) -> None:
        self.at, self.act, self.calls = at, act, 0

    def __call__(self, given: Any) -> None:
        self.calls += 1
        if self.calls >= self.at:
            self.act(given)


@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize(
    "act",
    [
        lambda x: x.detach().clamp_(0.4, 0.6),
        lambda x: x.detach()[:1].zero_(),
        lambda x: x.data.mul_(0.5),
        lambda x: x.detach().numpy().fill(0),
    ],
)
def test_a_loss(at: int, act: Any) -> None:
    sampler, late = mixture(), Late(at, act)

    def greedy(image: Tensor) -> Tensor:
        late(image)
        return image.flatten(1).mean(1)

    loss = Distance(target(sampler)) + 0 * gf.as_loss(greedy, "greedy")
    with pytest.raises(InvalidLoss, match=r"Loss 'greedy' changes what it is given, in place") as caught:
        gf.solve(sampler, loss, candidates=1, max_iterations=3)
    if at > 1:  # what was reached before is as it was
        part = caught.value.solution  # type: ignore[attr-defined]
        assert part.state.iteration == 1 and torch.equal(part.images, plain(keep="last", max_iterations=1).images)


@pytest.mark.parametrize("method", ["predict", "decode"])
def test_a_sampler(method: str) -> None:
    class Greedy(ToyMixture):
        def predict(self, z: Tensor, row: Any, condition: Any) -> Tensor:
            return super().predict(z.detach().mul_(0.5) if method == "predict" else z, row, condition)

        def decode(self, z: Tensor) -> Tensor:
            return super().decode(z.detach().mul_(0.5) if method == "decode" else z)

    sampler = Greedy(num_steps=3, size=6)
    with pytest.raises(InvalidArgument, match="The sampler Greedy changes what it is given"):
        gf.solve(sampler, Distance(torch.zeros(3, 6, 6)), candidates=1, max_iterations=1)


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("what", ["controls", "z0", "gradients"])
def test_a_solver(at: int, what: str) -> None:
    late = Late(at, lambda state: (state.rollout.gradients if what == "gradients" else getattr(state, what)).add_(1))

    class Greedy(gf.Anchored):
        def step(self, problem: Any, state: Any) -> Any:
            found = super().step(problem, state)
            late(state)
            return found

    sampler = mixture()
    with pytest.raises(InvalidArgument, match="The solver Greedy changes what it is given") as caught:
        gf.solve(sampler, Distance(target(sampler)), solver=Greedy(), candidates=1, max_iterations=3)
    part = caught.value.solution  # type: ignore[attr-defined]
    assert part.state.iteration == at - 1
    whole = plain(solver=gf.Anchored(), keep="last", max_iterations=at - 1)
    assert torch.equal(part.state.z0, whole.state.z0) and torch.equal(part.state.controls, whole.state.controls)
    assert torch.equal(part.state.rollout.gradients, whole.state.rollout.gradients)


def test_what_changes_a_copy_is_as_good_as_any() -> None:
    gf.solve(mixture(), lambda image: image.clone().clamp_(0, 1).flatten(1).mean(1), max_iterations=1)
