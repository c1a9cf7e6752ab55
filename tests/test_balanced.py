"""Balanced sums, against closed forms."""

import pytest
import torch

import guideflow as gf
from guideflow.errors import InvalidArgument, InvalidLoss
from guideflow.losses.base import evaluate
from problems import smoothness
from sums import IMAGE, A, B, gradient, norm


def test_the_objective_of_a_balanced_sum_is_what_its_gradient_belongs_to() -> None:
    loss = gf.balanced(A, 3 * gf.as_loss(smoothness))
    judged, objective, _ = evaluate(loss, IMAGE.clone().requires_grad_())
    ga, gs = norm(gradient(A)), norm(gradient(smoothness))
    common = (ga + 3 * gs) / 4
    torch.testing.assert_close(objective.detach(), common * (A(IMAGE) / ga + 3 * smoothness(IMAGE) / gs))
    torch.testing.assert_close(judged.detach(), A(IMAGE) + 3 * smoothness(IMAGE))


def test_balanced_gradients_have_equal_norms_per_image() -> None:
    far = 100 * gf.as_loss(smoothness)
    loss = gf.balanced(A, far.named("far"))
    ga, gs = gradient(A), 100 * gradient(smoothness)
    common = (norm(ga) + norm(gs)) / 2
    expected = sum(g / norm(g).view(-1, 1, 1, 1) for g in (ga, gs)) * common.view(-1, 1, 1, 1)
    torch.testing.assert_close(gradient(loss), expected)
    torch.testing.assert_close(loss(IMAGE), A(IMAGE) + 100 * smoothness(IMAGE))


def test_weights_are_shares_of_the_pull() -> None:
    loss = gf.balanced(3 * A, gf.as_loss(smoothness))
    ga, gs = gradient(A), gradient(smoothness)
    common = ((3 * norm(ga) + norm(gs)) / 4).view(-1, 1, 1, 1)
    expected = common * (3 * ga / norm(ga).view(-1, 1, 1, 1) + gs / norm(gs).view(-1, 1, 1, 1))
    torch.testing.assert_close(gradient(loss), expected)


def test_terms_of_equal_pull_stay_as_they_are() -> None:
    flipped = gf.as_loss(lambda x: A(x.flip(-1)), "flipped")
    image = IMAGE + 0
    one, two = gradient(A, image), gradient(flipped, image)
    torch.testing.assert_close(norm(one), norm(two))
    torch.testing.assert_close(gradient(gf.balanced(A, -2 * flipped), image), one - 2 * two)


def test_a_term_that_is_met_is_lifted_no_further_than_the_limit() -> None:
    tiny = 1e-6 * gf.as_loss(smoothness)
    loss = gf.balanced(A, tiny.named("tiny"), limit=10)
    ga, gt = gradient(A), gradient(tiny)
    common = ((norm(ga) + norm(gt)) / 2).view(-1, 1, 1, 1)
    torch.testing.assert_close(gradient(loss), ga / norm(ga).view(-1, 1, 1, 1) * common + 10 * gt)
    met = gf.as_loss(lambda x: 0 * A(x), "met")
    torch.testing.assert_close(gradient(gf.balanced(A, met)), ga / 2)


def test_terms_that_are_off_are_not_balanced() -> None:
    loss = gf.balanced(A, B.scheduled(start=5))
    torch.testing.assert_close(gradient(loss, iteration=0), gradient(A))
    torch.testing.assert_close(gradient(loss, iteration=5), gradient(gf.balanced(A, B)))
    assert loss.settled == 5
    torch.testing.assert_close(evaluate(loss, IMAGE, 0).loss, A(IMAGE) + B(IMAGE))


def test_a_balanced_sum_is_a_term_like_any_other() -> None:
    loss = 2 * gf.balanced(A, B) + gf.as_loss(smoothness)
    torch.testing.assert_close(gradient(loss), 2 * gradient(gf.balanced(A, B)) + gradient(smoothness))
    assert loss.describe() == "2 * balanced + smoothness" and len(loss.references()) == 2


def test_nan_in_one_image_stays_there() -> None:
    image = IMAGE.clone()
    image[1] = torch.nan
    found = gradient(gf.balanced(A, 5 * gf.as_loss(smoothness)), image)
    assert found[1].isnan().all() and found[[0, 2]].isfinite().all()


def test_balance_needs_two_terms_and_a_limit() -> None:
    with pytest.raises(InvalidArgument, match="at least two terms"):
        gf.balanced(A)
    for limit in (0.5, float("nan")):
        with pytest.raises(InvalidArgument, match="limit"):
            gf.balanced(A, B, limit=limit)


def test_a_term_that_the_image_does_not_reach_is_named() -> None:
    with pytest.raises(InvalidLoss, match="'still' has no gradient"):
        gradient(gf.balanced(A, gf.as_loss(lambda x: x.detach().flatten(1).mean(1), "still")))
