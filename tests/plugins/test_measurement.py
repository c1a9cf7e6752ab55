"""The measurement loss: closed-form values, the operators against other libraries, and what is refused."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import guideflow as gf
from guideflow.cli.reading import load_losses
from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.testing import parametrize_loss
from guideflow_measurement import Blur, Downscale, Greyscale, Mask
from problems import mixture

PICTURES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
SMALL, MASK = torch.full((3, 4, 4), 0.5), torch.ones(16, 16)
MASK[4:9, 2:12] = 0


class Sensor(nn.Module):
    """A noisy linear physics with the interface of deepinv: `A` is the operator, calling it adds noise."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 48 * 5).view(48, 5))

    def A(self, x):
        return F.avg_pool2d(x, 4).flatten(1) @ self.weight

    def forward(self, x):
        return self.A(x) + torch.randn(len(x), 5)


def middle(image):
    return image[:, :, 4:12, 4:12]


def loss(operator, observed, **options):
    return gf.load_loss("measurement", operator=operator, observed=observed, **options)


@parametrize_loss(lambda: loss("downscale", SMALL), image_size=16, name="measurement")
def test_downscale_conforms(check):
    check()


@pytest.mark.parametrize(
    ("operator", "observed", "options"),
    [
        ("mask", PICTURES[0], {"mask": MASK}),
        ("blur", PICTURES[0], {"sigma": 1.5}),
        ("greyscale", PICTURES[0], {}),
        (middle, torch.full((3, 8, 8), 0.4), {}),
        (Sensor(), torch.zeros(1, 5), {}),
        (Downscale(2, "area"), torch.full((3, 8, 8), 0.4), {}),
    ],
    ids=["mask", "blur", "greyscale", "function", "physics", "object"],
)
def test_every_operator_conforms(operator, observed, options):
    gf.testing.check_loss(lambda: loss(operator, observed, **options), image_size=16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_half_the_squared_error_per_pixel(dtype):
    x, y = PICTURES.to(dtype), PICTURES.flip(0, 3).to(dtype)[0]
    expected = (x[:, :, MASK == 1] - y[:, MASK == 1]).square().flatten(1).sum(1) / (2 * 3 * 16 * 16)
    torch.testing.assert_close(loss("mask", y, mask=MASK)(x), expected)
    white, black = torch.ones(1, 3, 16, 16, dtype=dtype), torch.zeros(3, 4, 4, dtype=dtype)
    torch.testing.assert_close(loss("downscale", black)(white), torch.tensor([0.5], dtype=dtype))
    torch.testing.assert_close(loss(middle, middle(x)[1])(x)[1], torch.tensor(0.0, dtype=dtype))


def test_a_physics_is_taken_without_its_noise_and_frozen():
    physics = Sensor()
    found = loss(physics, physics.A(PICTURES[:1]).detach())
    assert found(PICTURES)[0] == 0 and found(PICTURES)[1] > 0
    assert not physics.weight.requires_grad and found.describe() == "measurement (Sensor)"


@pytest.mark.skipif(find_spec("deepinv") is None, reason="is no dependency")
@pytest.mark.filterwarnings("ignore")
def test_a_physics_of_deepinv_works_as_it_is():
    from deepinv import physics

    kernel = physics.blur.gaussian_blur(sigma=(2.0, 2.0))
    blur = physics.Blur(filter=kernel, padding="replicate")
    torch.testing.assert_close(Blur(2.0)(PICTURES), blur.A(PICTURES), rtol=0, atol=5e-3)  # it cuts its kernel earlier
    shown = PICTURES[:1].clone().requires_grad_()
    for operator in (blur, physics.Downsampling(img_size=(3, 16, 16), factor=2), physics.Decolorize()):
        found = loss(operator, operator.A(PICTURES[1:]))
        (gradient,) = torch.autograd.grad(found(shown).sum(), shown)
        assert found(PICTURES)[1] == 0 and gradient.abs().sum() > 0


def test_operators_are_those_of_pillow():
    pixels = (PICTURES[0] * 255).round() / 255
    picture = gf.images.to_pil(pixels)
    for method in ("bicubic", "bilinear"):
        small = picture.resize((4, 4), Image.Resampling[method.upper()])
        expected = gf.images.from_pil(small)
        torch.testing.assert_close(Downscale(4, method)(pixels[None]).clamp(0, 1), expected, rtol=0, atol=1.1 / 255)
    grey = gf.images.from_pil(picture.convert("L"))[:, :1]
    torch.testing.assert_close(Greyscale()(pixels[None]), grey, rtol=0, atol=0.51 / 255)
    torch.testing.assert_close(Downscale(4, "area")(pixels[None]), F.avg_pool2d(pixels[None], 4))


def test_a_blurred_point_is_a_gaussian_and_flat_pictures_stay():
    point = torch.zeros(1, 3, 33, 33, dtype=torch.float64)
    point[:, :, 16, 16] = 1
    squared = ((torch.arange(33) - 16.0) ** 2).double()
    spread = (Blur(2.0)(point)[0, 0].sum(0) * squared).sum()
    torch.testing.assert_close(spread, torch.tensor(4.0, dtype=torch.float64), rtol=1e-2, atol=0)
    flat = torch.full((1, 3, 8, 8), 0.7)
    torch.testing.assert_close(Blur(3.0)(flat), flat)


def test_what_was_hidden_does_not_count_and_colours_do_not_where_they_are_lost():
    spoiled = torch.where(MASK == 1, PICTURES, 0.0)
    assert loss("mask", spoiled[0], mask=MASK)(PICTURES)[0] == 0 == loss("mask", PICTURES[0], mask=MASK)(spoiled)[0]
    grey = Greyscale()(PICTURES)
    for observed in (PICTURES[0], grey[0], grey[:1], grey[0].expand(3, -1, -1)):
        assert loss("greyscale", observed)(PICTURES)[0] < 1e-12


def test_files_on_the_command_line_and_back_from_a_saved_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sampler = mixture(dtype="float32")
    gf.images.save_image("small.png", torch.full((3, 3, 3), 0.25))
    gf.images.save_image("mask.png", torch.ones(3, 6, 6))
    total = load_losses(["measurement:operator=downscale,factor=2,observed=small.png"])
    assert total.describe() == "measurement (downscale, factor=2, method=bicubic)"
    options = {"seed": [0, 1], "solver": "flowgrad"}
    gf.solve(sampler, total, max_iterations=2, save_to="run", **options)
    (tmp_path / "small.png").unlink()  # what was observed lies with the run
    resumed = gf.resume("run", sampler=sampler, max_iterations=4)
    assert bool((resumed.history["loss"][-1] < resumed.history["loss"][0]).all()) and resumed.references[0][0, 0, 0] > 0
    masked = load_losses(["measurement:operator=mask,mask=mask.png,observed=mask.png"])
    gf.solve(sampler, masked, max_iterations=1, save_to="masked", **options)
    Path("mask.png").unlink()
    assert gf.resume("masked", sampler=sampler, max_iterations=2).state.iteration == 2, "the mask is in the run"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"operator": "downscale", "observed": PICTURES[0, :, :8, :8]},
            "makes 4x4 of an image of 16x16.*Type factor=2",
        ),
        ({"operator": "downscale", "observed": PICTURES[0, :, :5, :4]}, r"Type observed=.*size=\(4, 4\)"),
        ({"operator": "blur", "observed": SMALL}, r"makes 16x16 .* observed is 4x4.*size=\(16, 16\)"),
        ({"operator": "mask", "observed": PICTURES[0], "mask": torch.ones(8, 8)}, r"mask is 8x8.*size=\(16, 16\)"),
        ({"operator": "mask", "observed": SMALL, "mask": torch.ones(4, 4)}, r"mask is 4x4 and the picture 16x16"),
        ({"operator": "mask", "observed": SMALL}, "mask='mask.png'"),
        ({"operator": "mask", "observed": SMALL, "mask": torch.zeros(4, 4)}, "black all over"),
        ({"operator": "mask", "observed": SMALL, "mask": torch.full((4, 4), 255.0)}, "mask / 255"),
        ({"operator": "blurr", "observed": SMALL}, "'blur'"),
        ({"operator": "blur", "observed": SMALL, "factor": 2}, "factor=, which operator='blur' does not read.*sigma"),
        ({"operator": "greyscale", "observed": SMALL, "sigma": 2.0}, "It has no options"),
        ({"operator": middle, "observed": SMALL, "sigma": 2.0}, "sigma beside an operator of your own"),
        ({"operator": middle, "observed": SMALL}, "makes 8x8 of an image of 16x16, and observed is 4x4"),
        ({"operator": Sensor(), "observed": torch.zeros(4)}, r"makes 5 .*observed is 4.*observed=operator\(picture\)"),
        ({"operator": lambda x: x.mean(), "observed": SMALL}, r"returned \(\) for 2 images"),
        ({"operator": Downscale, "observed": SMALL}, "operator=Downscale"),
        ({"operator": "downscale", "observed": SMALL, "factor": 0}, "factor=0"),
        ({"operator": "downscale", "observed": SMALL, "factor": 17}, "of which nothing is left"),
        ({"operator": "downscale", "observed": SMALL, "method": "lanczos"}, "method='lanczos'"),
        ({"operator": "blur", "observed": SMALL, "sigma": 0.0}, "sigma=0"),
    ],
)
def test_what_does_not_fit_is_told_with_both_sizes_and_what_to_type(options, says):
    with pytest.raises(InvalidArgument, match=says):
        loss(**options)(PICTURES)


def test_pictures_that_are_none_are_refused():
    for observed, says in ((PICTURES, "Got 2 pictures"), (SMALL * 300, "0..255"), ("no.png", "no.png")):
        with pytest.raises(InvalidImage, match=says):
            loss("downscale", observed)
    with pytest.raises(InvalidArgument, match="needs 'observed'"):
        gf.load_loss("measurement", operator="blur")
    assert Mask(MASK).seen.shape == (1, 16, 16)
