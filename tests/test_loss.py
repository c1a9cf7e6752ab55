"""The algebra of losses and the checks on images."""

from typing import Any

import pytest
import torch
from torch import Tensor

import guideflow as gf
from guideflow.errors import InvalidArgument, InvalidImage, InvalidLoss
from guideflow.losses.base import evaluate
from guideflow.losses.evaluation import loss_name
from problems import Distance, smoothness

IMAGE = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
far = Distance(torch.full((3, 4, 5), 0.25))


def test_weighted_sums_add_up_and_log_unweighted_terms() -> None:
    loss = 2 * far + gf.as_loss(smoothness) / 4 - far.named("pull")
    total, _, terms = evaluate(loss, IMAGE)
    torch.testing.assert_close(total, far(IMAGE) + smoothness(IMAGE) / 4)
    assert list(terms) == ["distance", "smoothness", "pull"]
    torch.testing.assert_close(terms["smoothness"], smoothness(IMAGE))
    torch.testing.assert_close(loss(IMAGE), total)


def test_sums_of_sums_multiply_out() -> None:
    loss = 2 * (far + 3 * gf.as_loss(smoothness)) + -far
    torch.testing.assert_close(evaluate(loss, IMAGE)[0], far(IMAGE) + 6 * smoothness(IMAGE))
    assert loss.describe() == "2 * distance + 6 * smoothness - 1 * distance-2"


def test_plain_callables_and_sum_work() -> None:
    torch.testing.assert_close((far + smoothness)(IMAGE), far(IMAGE) + smoothness(IMAGE))
    torch.testing.assert_close((smoothness + far)(IMAGE), far(IMAGE) + smoothness(IMAGE))
    torch.testing.assert_close(sum([far, far])(IMAGE), 2 * far(IMAGE))


def test_names() -> None:
    class RoundEyes(gf.Loss):
        def __call__(self, image: Any) -> Any:
            return image.flatten(1).mean(1)

    assert loss_name(RoundEyes()) == "round-eyes" and loss_name(smoothness) == "smoothness"
    assert loss_name(lambda x: x) == "loss-term" and far.named("waves").describe() == "waves"
    # A term cannot take the place of a column that every history has.
    assert list(evaluate(far.named("loss"), IMAGE).terms) == ["loss-2"]


def test_weight_zero_only_logs() -> None:
    def broken(image: Tensor) -> Tensor:
        return (image.detach() * torch.nan).flatten(1).mean(1)

    image = IMAGE.clone().requires_grad_()
    total, _, terms = evaluate(far + 0 * gf.as_loss(broken), image)
    torch.testing.assert_close(total, far(IMAGE))
    assert bool(terms["broken"].isnan().all())
    torch.autograd.grad(total.sum(), image)


def test_half_precision_values_are_summed_in_the_dtype_of_the_images() -> None:
    total, _, _ = evaluate(lambda x: x.flatten(1).mean(1).half(), IMAGE.double())
    assert total.dtype == torch.float64


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_must_be_finite(weight: float) -> None:
    with pytest.raises(InvalidArgument, match="finite"):
        weight * far


def test_bad_term_of_a_sum_is_named() -> None:
    with pytest.raises(InvalidLoss, match=r"'mean-only' returned shape \(\)"):
        evaluate(far + gf.as_loss(lambda x: x.mean(), "mean-only"), IMAGE)
    with pytest.raises(InvalidLoss, match="'still' has no gradient"):
        evaluate(far + gf.as_loss(lambda x: x.detach().flatten(1).mean(1), "still"), IMAGE.clone().requires_grad_())


def test_good_images_pass() -> None:
    gf.check_image(IMAGE)
    gf.check_image(IMAGE.clamp(0, 1) + 5e-4)
    gf.check_image(torch.full_like(IMAGE, torch.nan))


@pytest.mark.parametrize(
    ("image", "cure"),
    [
        (IMAGE * 2 - 1, r"image / 2 \+ 0\.5"),
        (IMAGE * 255, "image / 255"),
        ((IMAGE * 255).to(torch.uint8), "x / 255"),
        (IMAGE[0], r"image\[None\]"),
        (IMAGE[:, :1], "1 channels.*expand"),
        (torch.rand(2, 4, 5, 5), r"4 channels.*image\[:, :3\]"),
        (torch.rand(2, 5, 5, 3), "permute"),
    ],
)
def test_bad_images_are_refused_with_the_cure(image: Tensor, cure: str) -> None:
    with pytest.raises(InvalidImage, match=cure):
        gf.check_image(image)


def test_references_of_all_terms_are_found() -> None:
    assert len((2 * far + gf.as_loss(smoothness) + far.named("again")).references()) == 2
