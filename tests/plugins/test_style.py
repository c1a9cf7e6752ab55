"""The style loss: closed-form values on hand-made features, and the bugs of others."""

import pytest
import torch
from torch.nn import functional as F

import guideflow as gf
from guideflow.errors import InvalidArgument
from guideflow.testing import parametrize_loss
from guideflow_style import Style, gram
from style_layers import NOISE, Layers, Mean, Pixels, plain


@parametrize_loss(lambda: gf.load_loss("style", reference=NOISE[:2], backend="gram", network=Layers()), image_size=24)
def test_gram_conforms(check):
    check()


@parametrize_loss(
    lambda: Style(list(NOISE[:2]), backend="cosine", network=Mean(), combine="best", mean=[0.5] * 3), image_size=16
)
def test_cosine_conforms(check):
    check()


def test_the_gram_distance_is_relative_and_known_in_closed_form():
    red, half, blue = plain(1, 0, 0), plain(0.5, 0, 0), plain(0, 0, 1)
    loss = Style(red, backend="gram", network=Pixels())
    # Gram matrices are diag(1, 0, 0), diag(1/4, 0, 0) and diag(0, 0, 1).
    torch.testing.assert_close(loss(torch.stack([red, half, blue])), torch.tensor([0, 0.75**2, 2]))


def test_the_cosine_distance_is_known_in_closed_form():
    loss = Style(plain(1, 0, 0), backend="cosine", network=Mean())
    x = torch.stack([plain(0.3, 0, 0), plain(1, 1, 0), plain(0, 1, 0)])
    torch.testing.assert_close(loss(x), torch.tensor([0, 1 - 0.5**0.5, 1]))


def test_several_references_are_meant_or_the_nearest_counts():
    x = torch.stack([plain(1, 0, 0), plain(0, 0, 1)])
    references = [plain(1, 0, 0), plain(0, 0, 1, size=5)]
    best = Style(references, backend="gram", network=Pixels(), combine="best")
    torch.testing.assert_close(best(x), torch.zeros(2))
    mean = Style(references, backend="gram", network=Pixels())  # diag(1/2, 0, 1/2), of squared norm 1/2
    torch.testing.assert_close(mean(x), torch.ones(2))
    cosine = Style(references, backend="cosine", network=Mean())
    torch.testing.assert_close(cosine(x), torch.full((2,), 1 - 0.5**0.5))
    assert cosine.describe() == "style (cosine, 2 references)" and len(cosine.references()) == 2


def test_weights_carry_over_between_sizes():
    reference, x = NOISE[0], NOISE[1:2]
    larger = x.repeat_interleave(3, 2).repeat_interleave(3, 3)
    loss = Style(reference, backend="gram", network=Pixels())
    torch.testing.assert_close(loss(larger), loss(x))
    torch.testing.assert_close(gram(larger), gram(x))
    small, large = (x.clone().requires_grad_(), larger.clone().requires_grad_())
    gradients = [torch.autograd.grad(loss(one).sum(), one)[0] for one in (small, large)]
    torch.testing.assert_close(F.avg_pool2d(gradients[1], 3, divisor_override=1), gradients[0])


def test_descent_on_pixels_takes_the_style_over():
    reference = plain(0.9, 0.2, 0.1)
    loss, x = Style(reference, backend="gram", network=Pixels()), torch.full((1, 3, 8, 8), 0.5)
    for _ in range(200):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x).sum(), x)
        x = (x - 2 * gradient).detach().clamp(0, 1)
    assert loss(x) < 1e-4
    torch.testing.assert_close(x[0], reference, atol=0.02, rtol=0)


def test_the_gradient_agrees_with_finite_differences_in_float64():
    loss = Style(NOISE[:2, :, :7, :7].double(), backend="gram", network=Layers().double(), combine="best")
    x = NOISE[1:, :, 9:14, :5].double().requires_grad_()
    assert torch.autograd.gradcheck(loss, x)


def test_references_are_encoded_once():
    calls = []
    network = Layers()
    network.register_forward_hook(lambda *_: calls.append(1))
    loss = Style(NOISE[:2], backend="gram", network=network)
    for _ in range(3):
        loss(NOISE)
    assert len(calls) == 2 + 3


def test_pictures_of_a_batch_do_not_disturb_each_other():
    """As they do where the norm is taken over the whole batch, in FreeDoM and MPGD."""
    loss = Style(NOISE[0], backend="gram", network=Layers())
    x, other = NOISE[1:].clone().requires_grad_(), torch.stack([NOISE[1], NOISE[2] ** 4]).requires_grad_()
    (gradient,), (with_other,) = (torch.autograd.grad(loss(one).sum(), one) for one in (x, other))
    torch.testing.assert_close(gradient[0], with_other[0])

    def coupled(image):
        return torch.linalg.vector_norm(gram(image) - gram(NOISE[:1])).expand(len(image))

    (bad,), (bad_with_other,) = (torch.autograd.grad(coupled(one)[0], one) for one in (x, other))
    assert not torch.allclose(bad[0], bad_with_other[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "gatys"}, "'clip', 'clip-gram', 'vgg-gram', 'cosine', 'gram'"),
        ({"combine": "max"}, "'mean', 'best'"),
        ({"network": None}, "Expected a module"),
        ({"network": "RN50"}, "Expected a module"),
        ({"network": Mean()}, r"\(1, 3\) for 1 images.*type backend='cosine'"),
        ({"backend": "cosine"}, r"\(1, 3, 40, 40\) for 1 images.*type backend='gram'"),
        ({"layers": [1]}, "layers=, which a module does not read"),
        ({"checkpoint": "a.pth"}, "checkpoint=, which a module does not read"),
        ({"quick_gelu": True}, "quick_gelu=, which a module does not read"),
        ({"backend": "vgg-gram", "network": None, "quick_gelu": True}, "quick_gelu=, which backend='vgg-gram'"),
        ({"backend": "vgg-gram", "network": "vgg16"}, "Expected a module, or checkpoint"),
        ({"backend": "vgg-gram", "network": None, "layers": ["relu9"]}, "layer 'relu9'. Expected some of: relu1_1"),
        ({"backend": "vgg-gram", "network": None, "checkpoint": "a.pth"}, "no file a.pth"),
        ({"backend": "clip", "network": "nothing"}, "no CLIP network 'nothing'"),
    ],
)
def test_options_are_refused_with_a_cure(options, message):
    with pytest.raises(InvalidArgument, match=message):
        Style(NOISE[0], **{"backend": "gram", "network": Pixels(), **options})


def test_a_solve_takes_the_style_over_better_than_no_guidance():
    sampler = gf.load_sampler("toy-mixture")
    loss = Style(sampler.decode(sampler.means[[2, 8]]), backend="gram", network=Layers())
    solution = gf.solve(sampler, loss, prompt="disc", max_iterations=12, seed=[0, 1])
    assert (solution.loss < 0.5 * loss(solution.unguided)).all()
    assert solution.loss.mean() < 0.8 * solution.history["style"][0].mean()


@pytest.mark.weights
@pytest.mark.parametrize("backend", ["clip", "clip-gram", "vgg-gram"])
def test_published_networks_tell_styles_apart(backend):
    stripes = (torch.arange(64) // 4 % 2).float().expand(3, 64, 64)
    loss = Style(stripes, backend=backend)
    values = loss(torch.stack([stripes.roll(2, -1), plain(0.2, 0.5, 0.9, size=64)]))
    assert values[0] < values[1]


def test_images_of_other_proportions_are_cropped_or_stretched():
    """Universal Guidance stretches: what lies at the edges counts there, and not in a crop to the middle."""
    wide = torch.rand(1, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    other = wide.clone()
    other[..., :3] = 0
    pool = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten())
    losses = [Style(wide, backend="cosine", network=pool, size=8, crop=crop)(other) for crop in (True, False, None)]
    assert losses[0].abs() < 1e-6 and losses[1] > 0.01 and torch.equal(losses[1], losses[2])
    stretched = torch.nn.functional.interpolate(other, (8, 8), mode="bilinear", antialias=True)
    assert torch.equal(Style(wide, backend="cosine", network=pool, size=8)(stretched), losses[1])
