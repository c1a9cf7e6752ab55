"""The CLIP loss: closed-form values, conformance, and loading of every kind of checkpoint."""

import open_clip
import pytest
import torch
from torch import nn

import guideflow as gf
import tiny_clip
from guideflow.errors import InvalidArgument, InvalidImage, MissingWeights
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


def test_weights_are_never_silently_random(tiny, tmp_path):
    (tmp_path / "open_clip_config.json").write_text((tiny[0] / "open_clip_config.json").read_text())
    with pytest.raises(MissingWeights, match=r"no weights.*random_weights=True"):
        Clip("boat", network=tmp_path)
    Clip("boat", network=tmp_path, random_weights=True)(NOISE)
    with pytest.raises(InvalidArgument, match="one of the two"):
        Clip("boat", network="ViT-B-32", checkpoint="openai", random_weights=True)


def test_random_weights_are_random_even_if_there_are_others(tiny):
    ours = load_clip(tiny[0], random_weights=True).network.state_dict()["visual.conv1.weight"]
    assert not torch.equal(ours, tiny[1].state_dict()["visual.conv1.weight"])


def offline(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(
    ("network", "repository"),
    [("ViT-B-32", "timm/vit_base_patch32_clip_224.openai"), ("someone/clip", "someone/clip")],
)
def test_without_network_the_message_says_what_to_download(network, repository, monkeypatch, tmp_path):
    offline(monkeypatch, tmp_path)
    with pytest.raises(MissingWeights, match=f"hf download {repository} open_clip_config.json"):
        Clip("boat", network=network)


def activation(loaded):
    return {type(one).__name__ for one in loaded.network.modules()} & {"GELU", "QuickGELU"}


@pytest.mark.parametrize("name", ["tiny", "tiny-quickgelu"])
def test_the_tag_decides_about_quick_gelu(name, monkeypatch, tmp_path):
    file = tiny_clip.weights(tiny_clip.network(), tmp_path / "a.safetensors")
    tiny_clip.register(monkeypatch, {"openai": (file, True), "laion": (file, False)})
    assert activation(load_clip(name)) == {"QuickGELU"}
    if name == "tiny":
        assert activation(load_clip(name, "laion")) == {"GELU"}
        with pytest.raises(InvalidArgument, match="trained with QuickGELU"):
            load_clip(name, "openai", quick_gelu=False)
    else:
        with pytest.raises(InvalidArgument, match=r"trained without QuickGELU.*network='tiny'"):
            load_clip(name, "laion")
        with pytest.raises(InvalidArgument, match="Type 'tiny'"):
            load_clip(name, quick_gelu=False)


def test_a_file_that_does_not_say_is_asked_about(monkeypatch, tmp_path):
    tiny_clip.register(monkeypatch)
    made = tiny_clip.network(quick_gelu=True)
    file = tiny_clip.weights(made, tmp_path / "mine.safetensors")
    with pytest.raises(InvalidArgument, match=r"Cannot tell .* QuickGELU.*quick_gelu=True"):
        Clip("boat", network="tiny", checkpoint=file)
    loss = Clip("boat", network="tiny", checkpoint=file, quick_gelu=True)
    suffixed = Clip("boat", network="tiny-quickgelu", checkpoint=file)
    torch.testing.assert_close(loss(NOISE), suffixed(NOISE))
    wrong = Clip("boat", network="tiny", checkpoint=file, quick_gelu=False)
    assert not torch.allclose(loss(NOISE), wrong(NOISE), atol=1e-4)  # which is why it asks


def test_a_file_beside_its_configuration_says(monkeypatch, tmp_path):
    tiny_clip.register(monkeypatch)
    folder, _ = tiny_clip.folder(tmp_path / "quick", quick_gelu=True)
    assert activation(load_clip(folder)) == {"QuickGELU"}
    assert activation(load_clip("tiny", folder / "open_clip_model.safetensors")) == {"QuickGELU"}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # on its way out; OpenAI's files stay what they are
def test_openai_archives_are_read_and_known_to_have_quick_gelu(monkeypatch, tmp_path):
    tiny_clip.register(monkeypatch)
    made = tiny_clip.network(quick_gelu=True)
    archive = nn.Module()
    for key, value in {**made.state_dict(), "context_length": torch.tensor(77)}.items():
        *path, last = key.split(".")
        place = archive
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        place.register_buffer(last, value)
    torch.jit.script(archive).save(str(tmp_path / "RN50.pt"))
    loaded = load_clip("tiny", tmp_path / "RN50.pt")
    assert activation(loaded) == {"QuickGELU"}
    torch.testing.assert_close(loaded.network.state_dict()["visual.proj"], made.state_dict()["visual.proj"])
    with pytest.raises(InvalidArgument, match="trained with QuickGELU"):
        load_clip("tiny", tmp_path / "RN50.pt", quick_gelu=False)


def test_a_checkpoint_of_another_network_is_refused(monkeypatch, tmp_path):
    tiny_clip.register(monkeypatch)
    file = tiny_clip.weights(tiny_clip.network(tiny_clip.RESNET), tmp_path / "resnet.safetensors")
    with pytest.raises(InvalidArgument, match=r"resnet\.safetensors do not fit"):
        load_clip("tiny", file, quick_gelu=False)
    (tmp_path / "text.pt").write_text("not weights")
    with pytest.raises(InvalidArgument, match="cannot be loaded"):
        load_clip("tiny", tmp_path / "text.pt", quick_gelu=False)


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
