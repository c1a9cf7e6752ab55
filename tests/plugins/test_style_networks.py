"""The style loss on networks in their published layout, on disk."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import tiny_clip
from guideflow.errors import InvalidArgument, InvalidImage, MissingWeights
from guideflow.testing import check_loss
from guideflow_style import ClipTokens, Style, VggFeatures, gram
from style_layers import NOISE


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return tiny_clip.folder(tmp_path_factory.mktemp("clip") / "vit")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    return tiny_clip.folder(tmp_path_factory.mktemp("clip") / "resnet", tiny_clip.RESNET)


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    """The first two blocks of a random VGG-19 in torchvision's layout, as a file and as modules."""
    torch.manual_seed(0)
    features = nn.Sequential(
        *(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU()),
    )
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    save_file({f"features.{key}": value for key, value in features.state_dict().items()}, path)
    return path, features


def test_published_layouts_on_disk_conform(vit, resnet, vgg):
    check_loss(lambda: Style(NOISE[0], network=resnet[0]), image_size=32)
    check_loss(lambda: Style(NOISE[0], backend="clip-gram", network=vit[0]), image_size=32)
    layers = ["relu1_1", "relu2_1"]
    check_loss(lambda: Style(NOISE[0], backend="vgg-gram", checkpoint=vgg[0], layers=layers, size=16), image_size=16)


def test_a_picture_has_the_style_of_itself_whatever_the_backend(vit, resnet, vgg):
    """As it must, once the reference goes through the same preparation; TFG normalises it twice."""
    losses = [
        Style(NOISE[0], network=resnet[0]),
        Style(NOISE[0], backend="clip-gram", network=vit[0]),
        Style(NOISE[0], backend="vgg-gram", checkpoint=vgg[0], layers=["relu2_1"]),
    ]
    for loss in losses:
        values = loss(NOISE)
        assert values[0].abs() < 1e-6 and (values[1:] > 1e-5).all()
        with pytest.raises(InvalidImage, match="Expected \\[0, 1\\]"):
            loss(NOISE * 2 - 1)  # which TFG feeds


def test_clip_gram_takes_the_tokens_after_block_2_counted_from_0(vit):
    """FreeDoM's block; TFG takes the one before, because hidden states count the embedding as the first."""
    folder, network = vit
    found = {}
    for number, block in enumerate(network.visual.transformer.resblocks):
        block.register_forward_hook(lambda _, __, output, number=number: found.update({number: output}))
    loss = Style(NOISE[0], backend="clip-gram", network=folder)
    network.visual(loss._preparation(NOISE))
    torch.testing.assert_close(loss.embed_style(NOISE)[0], gram(found[2][:, 1:]))
    first = Style(NOISE[0], backend="clip-gram", network=folder, layers=[0, 3])
    expected = torch.stack([loss_of(gram(found[k][:, 1:])) for k in (0, 3)]).mean(0)
    torch.testing.assert_close(first(NOISE), expected)


def loss_of(grams):
    return (grams - grams[:1]).square().sum((1, 2)) / grams[0].square().sum()


def test_clip_is_the_cosine_of_the_image_embeddings_with_the_normalisation_of_clip(resnet):
    """Universal Guidance normalises with ImageNet's; its numbers can be had by saying so."""
    folder, network = resnet
    loss = Style(NOISE[0], network=folder)
    mean, std = (torch.tensor(tiny_clip.PREPROCESS[key]).view(3, 1, 1) for key in ("mean", "std"))
    x = NOISE[..., :32, :32]
    embeddings = F.normalize(network.encode_image((x - mean) / std), dim=1)
    loss = Style(x[0], network=folder)
    torch.testing.assert_close(loss(x), 1 - embeddings @ embeddings[0], atol=1e-5, rtol=0)
    imagenet = Style(x[0], network=folder, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    assert not torch.allclose(imagenet(x), loss(x), atol=1e-5)


def test_a_whole_clip_network_is_taken_for_what_it_is(vit):
    folder, _ = vit
    for backend in ("clip", "clip-gram"):
        torch.testing.assert_close(
            Style(NOISE[0], backend=backend, network=tiny_clip.network(), mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])(
                NOISE
            ),
            Style(NOISE[0], backend=backend, network=folder)(NOISE),
        )


def test_vgg_features_are_those_of_torchvisions_layout(vgg):
    path, features = vgg
    found = VggFeatures(["relu2_1", "relu1_1"], path)(NOISE)
    torch.testing.assert_close(found, [features[:2](NOISE), features(NOISE)])
    with pytest.raises(InvalidArgument, match=r"features\.7\.weight is missing"):
        VggFeatures(["relu2_2"], path)


def test_without_vgg_the_message_says_what_to_download(monkeypatch, tmp_path):
    from urllib.error import URLError

    def refuse(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"download https://download\.pytorch\.org/models/vgg19.*checkpoint="):
        Style(NOISE[0], backend="vgg-gram")


def test_networks_that_do_not_fit_a_backend_are_refused_with_a_cure(vit, resnet):
    with pytest.raises(InvalidArgument, match="network='ViT-B-16'"):
        Style(NOISE[0], backend="clip-gram", network=resnet[0])
    for layers in ([4], [-1], []):
        with pytest.raises(InvalidArgument, match="0 to 3"):
            Style(NOISE[0], backend="clip-gram", network=vit[0], layers=layers)
    with pytest.raises(InvalidArgument, match="vision transformer"):
        ClipTokens(nn.Identity(), [2])
