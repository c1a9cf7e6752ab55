"""The CLIP loss: closed-form values and conformance."""

import open_clip
import pytest
import torch
from torch import nn

import guideflow as gf
import tiny_clip
from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.testing import check_loss, parametrize_loss
from guideflow_clip import Clip, load_clip

RED, GREEN, BLUE = (torch.eye(3)[i].view(3, 1, 1).expand(3, 16, 16).clone() for i in range(3))
NOISE = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(1))


class Colours(nn.Module):
    """Sees the mean colour of an image, and the colours named in a text."""

    WORDS = ("red", "green", "blue")

    def encode_image(self, image):
        return image.flatten(2).mean(2)

    def encode_text(self, tokens):
        return tokens.float()

    def tokenize(self, texts):
        return torch.tensor([[word in text for word in self.WORDS] for text in texts])


def colours(*texts, **options):
    network = Colours()
    return Clip(texts or None, network=network, tokenizer=network.tokenize, **options)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_clip.folder(tmp_path_factory.mktemp("clip") / "tiny")


@parametrize_loss(
    lambda: gf.load_loss("clip", text="red", network=Colours(), tokenizer=Colours().tokenize), image_size=16
)
def test_conforms(check):
    check()


def test_a_network_from_disk_conforms(tiny):
    check_loss(lambda: Clip("a red boat", network=tiny[0]), image_size=40)


def test_the_loss_is_one_minus_the_cosine():
    values = colours("a red boat")(torch.stack([RED, GREEN, (RED + GREEN) / 2]))
    torch.testing.assert_close(values, torch.tensor([0.0, 1.0, 1 - 0.5**0.5]))


def test_several_texts_are_meant_or_the_nearest_counts():
    x = torch.stack([RED, BLUE])
    torch.testing.assert_close(colours("red", "green", combine="best")(x), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(colours("red", "green")(x), torch.tensor([1 - 0.5**0.5, 1.0]))


def test_references_of_different_sizes_are_encoded_once_each():
    calls = []
    network = Colours()
    encode = network.encode_image
    network.encode_image = lambda image: calls.append(tuple(image.shape)) or encode(image)
    loss = Clip(reference=[RED, GREEN[:, :8]], network=network, combine="best")
    assert calls == [(1, 3, 16, 16), (1, 3, 8, 16)]
    torch.testing.assert_close(loss(torch.stack([RED, GREEN, BLUE])), torch.tensor([0.0, 0.0, 1.0]))
    assert len(calls) == 3
    assert [one.shape for one in loss.references()] == [(3, 16, 16), (3, 8, 16)]


def test_descent_on_pixels_reaches_the_colour_of_the_text():
    loss, x = colours("green"), torch.full((1, 3, 4, 4), 0.5)
    for _ in range(100):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x).sum(), x)
        x = (x - 5 * gradient).detach().clamp(0, 1)
    assert loss(x) < 1e-3
    assert (x[:, 1] > 0.45).all() and (x[:, [0, 2]] < 0.05).all()


def test_the_gradient_agrees_with_finite_differences_in_float64(tiny):
    loss = Clip("a red boat", network=tiny_clip.network().double(), tokenizer=open_clip.tokenize)
    x = NOISE[:2].double() * 0.8 + 0.1
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    step = torch.zeros(2, 1, 1, 1, dtype=x.dtype, requires_grad=True)
    assert torch.autograd.gradcheck(lambda step: loss(x + step * direction), step)


def test_pictures_are_prepared_as_open_clip_prepares_them(tiny):
    folder, network = tiny
    loaded = load_clip(folder)
    assert loaded.preparation.mean == (0.5, 0.4, 0.3)  # not those of ImageNet, nor OpenAI's
    assert loaded.preparation.size == (32, 32)
    from torchvision.transforms.functional import to_pil_image

    smooth = torch.nn.functional.interpolate(NOISE[:1, :, :6, :6], (48, 64), mode="bicubic")
    wide = (smooth.clamp(0, 1) * 255).round() / 255
    transform = open_clip.image_transform(32, is_train=False, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    theirs = transform(to_pil_image(wide[0]))
    torch.testing.assert_close(loaded.preparation(wide)[0], theirs, atol=0.03, rtol=0)
    expected = torch.nn.functional.normalize(network.encode_image(theirs[None]), dim=1)
    torch.testing.assert_close(Clip("boat", network=folder).embed(wide), expected, atol=0.02, rtol=0)


def test_the_normalisation_of_universal_guidance_can_be_had_by_name(tiny):
    imagenet = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert not torch.allclose(Clip("boat", network=tiny[0])(NOISE), Clip("boat", network=tiny[0], **imagenet)(NOISE))


def test_texts_are_compared_as_the_network_itself_does(tiny):
    folder, network = tiny
    loss = Clip("a red boat", network=folder)
    text = network.encode_text(open_clip.tokenize(["a red boat"]), normalize=True)
    torch.testing.assert_close(loss(NOISE), 1 - (loss.embed(NOISE) @ text.T)[:, 0])
    assert loss.describe() == "clip: distance to 'a red boat' (tiny)"


def test_two_losses_can_share_a_network(tiny):
    first = Clip("boat", network=tiny[0])
    second = Clip(reference=NOISE[0], network=first.network)
    assert second.network is first.network
    torch.testing.assert_close(second(NOISE[:1]), torch.zeros(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither of text and reference"),
        ({"text": ["red", " "]}, "an empty text"),
        ({"text": "red", "reference": RED}, "both.*add two losses"),
        ({"text": "red", "combine": "max"}, "'mean', 'best'"),
        ({"text": "red"}, "tokenizer=open_clip"),
        ({"text": "red", "network": nn.Identity()}, "without encode_image"),
        ({"text": "red", "network": "nothing"}, "no CLIP network 'nothing'"),
        ({"text": "red", "network": "ViT-B-32", "checkpoint": "nothing"}, "openai, .*or the path of a file"),
        ({"reference": RED, "size": 0}, "size=0"),
        ({"reference": RED, "mean": [0.5]}, "three numbers"),
        ({"reference": RED, "std": [1, 0, 1]}, "three positive"),
    ],
)
def test_options_are_refused_with_a_cure(options, message):
    with pytest.raises(InvalidArgument, match=message):
        Clip(**{"network": Colours(), **options})


@pytest.mark.parametrize("reference", [[], RED * 2 - 1, RED * 255, RED[:1]])
def test_references_that_are_no_pictures_are_refused(reference):
    with pytest.raises(InvalidImage):
        Clip(reference=reference, network=Colours())


@pytest.mark.weights
def test_the_published_network_tells_colours_apart():
    loss = Clip(["a red square"])
    values = loss(torch.stack([RED, BLUE]))
    assert values[0] < values[1]


@pytest.mark.parametrize("words", [20, 12])
def test_text_beyond_the_context_is_told_with_what_is_lost(words):
    """The context has 77 tokens, two of which are no text."""
    network, tokenizer = tiny_clip.network(), open_clip.get_tokenizer("RN50")
    text = "a red boat on a lake " * words
    Clip("a red boat", network=network, tokenizer=tokenizer)
    if words == 12:
        Clip(text + "a boat", network=network, tokenizer=tokenizer)
        return
    with pytest.warns(UserWarning, match="CLIP reads: 'on a lake a red boat .* with a purple dragon' is not seen"):
        Clip(["a cat", text + "with a purple dragon"], network=network, tokenizer=tokenizer)
