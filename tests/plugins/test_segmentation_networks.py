"""Loading segmentation networks: folders of transformers and smp in their true layout, torchvision, what is missing."""

import json
import shutil

import pytest
import segmentation_models_pytorch as smp
import torch
import transformers
from safetensors.torch import save_file

import traps
from guideflow.errors import InvalidArgument, MissingWeights
from guideflow.losses.vision import Preparation
from guideflow.testing import check_loss
from guideflow_segmentation import Segmentation, load_segmenter

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
NOISE = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def lively(network):
    """Random weights large enough that pixels differ."""
    with torch.no_grad():
        for one in network.parameters():
            if one.dim() > 1:
                one.mul_(3)
    return network.eval()


@pytest.fixture(scope="module")
def segformer(tmp_path_factory):
    """A folder as `save_pretrained` writes it, and the network and image processor that wrote it."""
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1] * 4,
        num_attention_heads=[1, 1, 2, 4],
        decoder_hidden_size=16,
        id2label={0: "sky", 1: "sea", 2: "sand"},
        label2id={"sky": 0, "sea": 1, "sand": 2},
    )
    network = lively(transformers.SegformerForSemanticSegmentation(config))
    processor = transformers.SegformerImageProcessor(
        size={"height": 64, "width": 64}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]
    )
    folder = tmp_path_factory.mktemp("segformer")
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, network, processor


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """A folder as smp's `save_pretrained` writes it, of a network whose encoder was pretrained, and the network."""
    torch.manual_seed(0)
    network = smp.MAnet(  # which takes multiples of its stride only
        "mobilenet_v2",
        encoder_depth=3,
        encoder_weights=None,
        decoder_channels=(8, 8, 4),
        decoder_pab_channels=8,
        classes=4,
    ).eval()
    folder = tmp_path_factory.mktemp("unet")
    network.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "encoder_weights": "imagenet"}))
    return folder, network


def test_segformer_gives_the_logits_names_and_preparation_of_its_folder(segformer):
    folder, network, processor = segformer
    loaded = load_segmenter(folder)
    assert loaded.names == ("sky", "sea", "sand")
    picture = (NOISE[:1] * 255).round() / 255
    theirs = processor((picture[0] * 255).to(torch.uint8), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(loaded.preparation(picture), theirs, atol=0.06, rtol=0)  # it rounds to 8 bits
    expected = torch.nn.functional.interpolate(network(theirs).logits, (64, 64), mode="bilinear")
    torch.testing.assert_close(loaded.logits(picture, (64, 64)), expected, atol=0.02, rtol=0.02)


def test_segformer_conforms(segformer):
    layout = torch.zeros(8, 8, dtype=torch.long)
    layout[4:] = 2
    check_loss(lambda: Segmentation(layout, network=segformer[0], labels=["sky", "sand"], others="merge"))


def test_a_folder_in_half_precision_computes_in_float32(segformer, tmp_path):
    folder, network, processor = segformer
    half = transformers.SegformerForSemanticSegmentation(network.config)
    half.load_state_dict(network.state_dict())
    half.half().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loss, exact = (Segmentation(torch.zeros(4, 4, dtype=torch.long), network=one) for one in (tmp_path, folder))
    assert loss(NOISE).dtype == torch.float32
    torch.testing.assert_close(loss(NOISE), exact(NOISE), rtol=0.02, atol=0.02)


def test_partly_random_networks_are_refused(segformer, tmp_path):
    folder, network, _ = segformer
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    state = {key: value.contiguous() for key, value in network.state_dict().items() if "classifier" not in key}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidArgument, match=r"decode_head\.classifier.*partly random"):
        load_segmenter(tmp_path)


def test_smp_loads_offline_even_if_its_encoder_was_pretrained(unet, monkeypatch):
    import huggingface_hub.constants

    folder, network = unet
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    loaded = load_segmenter(folder, **IMAGENET)
    picture = loaded.preparation(NOISE[:, :, :32, :32])
    torch.testing.assert_close(loaded.network(picture), network(picture))
    assert loaded.multiple == 8


def test_smp_pictures_of_any_size_are_brought_to_a_multiple_of_its_stride(unet):
    loss = Segmentation(torch.zeros(9, 9, dtype=torch.long), network=unet[0], **IMAGENET)
    assert loss(NOISE[..., :35]).shape == (2,)
    assert loss.segment(NOISE[..., :35]).shape == (2, 48, 32)


def test_smp_reads_names_and_normalisation_that_lie_beside_it(unet, tmp_path):
    folder = shutil.copytree(unet[0], tmp_path / "unet")
    with pytest.raises(InvalidArgument, match=r"has no preprocessor_config\.json.*0\.485"):
        load_segmenter(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": IMAGENET["mean"], "image_std": IMAGENET["std"], "size": 64})
    )
    (folder / "id2label.json").write_text(json.dumps({"0": "rest", "1": "hair", "10": "hat", "2": "skin"}))
    loaded = load_segmenter(folder)
    assert loaded.names == ("rest", "hair", "skin", "hat")
    assert loaded.preparation == Preparation((64, 64), tuple(IMAGENET["mean"]), tuple(IMAGENET["std"]))
    check_loss(lambda: Segmentation(torch.zeros(4, 4, dtype=torch.long), network=folder))


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    import urllib.error
    import urllib.request

    import huggingface_hub.constants

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def test_without_network_the_message_says_what_to_download(no_network, tmp_path):
    with pytest.raises(MissingWeights, match=r"download https://download\.pytorch\.org/models/lraspp.*12 MB") as error:
        Segmentation(torch.zeros(4, 4, dtype=torch.long))
    assert str(tmp_path / "torch") in str(error.value)
    with pytest.raises(MissingWeights, match=r"hf download nvidia/segformer-b0 --local-dir segformer-b0"):
        load_segmenter("nvidia/segformer-b0")


def test_weights_in_the_cache_of_torch_hub_or_in_a_file_are_taken(no_network, monkeypatch, tmp_path):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    network = torchvision.models.get_model(
        "lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=21
    ).eval()
    file = tmp_path / "torch" / "hub" / "checkpoints" / "lraspp_mobilenet_v3_large-d234d4ea.pth"
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)  # the layout that torchvision publishes
    cached, given = load_segmenter("lraspp", size=64), load_segmenter("lraspp", file, size=64)
    assert cached.names[:2] == ("__background__", "aeroplane") and len(cached.names) == 21
    assert load_segmenter("lraspp", file).preparation == Preparation(
        (520, 520), tuple(IMAGENET["mean"]), tuple(IMAGENET["std"])
    )
    with torch.no_grad():
        expected = network(cached.preparation(NOISE))["out"]
        for loaded in (cached, given):
            torch.testing.assert_close(loaded.logits(NOISE, (64, 64)), expected)
    assert not any(one.requires_grad for one in cached.network.parameters())
    with pytest.raises(InvalidArgument, match="does not fit lraspp_mobilenet_v3_large with 3 classes"):
        load_segmenter("lraspp", file, names=["a", "b", "c"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "'lraspp' or another of torchvision"),
        (("fcn_resnet18",), "torchvision has no segmentation network 'fcn_resnet18'.*fcn_resnet50"),
        (("lraspp", "missing.pth"), "no file missing.pth"),
        (("someone/unet", "weights.pth"), "only networks of torchvision read"),
    ],
)
def test_networks_that_are_not_there_are_refused_with_a_cure(arguments, message):
    with pytest.raises(InvalidArgument, match=message):
        load_segmenter(*arguments)


def test_folders_that_hold_something_else_are_refused(segformer, tmp_path):
    with pytest.raises(InvalidArgument, match=r"has no config\.json"):
        load_segmenter(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InvalidArgument, match="is no JSON"):
        load_segmenter(tmp_path)
    (tmp_path / "config.json").write_text((segformer[0] / "config.json").read_text())
    with pytest.raises(InvalidArgument, match="cannot be loaded"):
        load_segmenter(tmp_path, **IMAGENET)
    (tmp_path / "a.pth").write_text("not weights")
    with pytest.raises(InvalidArgument, match="cannot be read as weights"):
        load_segmenter("lraspp", tmp_path / "a.pth")


def test_a_folder_cannot_bring_code_along(monkeypatch, tmp_path):
    kind = "AutoModelForSemanticSegmentation"
    folder = traps.remote_code(tmp_path / "custom", tmp_path / "marker", kind, "PretrainedConfig")
    monkeypatch.setattr("builtins.input", lambda prompt: "y")  # transformers would ask at the terminal
    with pytest.raises(InvalidArgument, match="cannot be loaded as a segmentation network"):
        load_segmenter(folder, **IMAGENET)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("trap", traps.TRAPS)
def test_weights_that_run_code_are_not_loaded(trap, tmp_path):
    file = trap(tmp_path / "weights.pth", tmp_path / "marker")
    with pytest.raises(InvalidArgument, match=r"without running code.*Save its state dict by itself"):
        load_segmenter("lraspp", file)
    assert not (tmp_path / "marker").exists()


@pytest.mark.weights
def test_the_published_network_sees_classes():
    loss = Segmentation(reference=torch.full((3, 64, 64), 0.5))
    assert loss(torch.full((1, 3, 64, 64), 0.5)) < 0.5
