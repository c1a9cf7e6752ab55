"""`subject` with its true networks, tiny and random, in their layout on disk."""

import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import guideflow as gf
import tiny
import traps
from guideflow.errors import InvalidArgument, MissingWeights
from guideflow_subject import OwlViT, Subject


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    from transformers import Dinov2Config, Dinov2Model, OwlViTConfig, OwlViTForObjectDetection

    folder = tmp_path_factory.mktemp("subject")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        text = small | {"vocab_size": 60, "max_position_embeddings": 16, "bos_token_id": 53, "eos_token_id": 54}
        config = OwlViTConfig(
            text_config=text | {"pad_token_id": 0},
            vision_config=small | {"image_size": 64, "patch_size": 16},
            projection_dim=32,
        )
        OwlViTForObjectDetection(config).save_pretrained(folder / "owl")
        tiny._tokenizer(folder / "tokenizer", "!")
        for file in (folder / "tokenizer").iterdir():
            file.rename(folder / "owl" / file.name)
        dino = Dinov2Config(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14, mlp_ratio=2
        )
        Dinov2Model(dino).save_pretrained(folder / "dino")
    return folder


def picture(seed, count=1, size=64):
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return 0.15 + 0.7 * F.interpolate(coarse, size, mode="bicubic", align_corners=False).clamp(0, 1)


def test_queries_are_encoded_once_as_image_guided_detection_does(checkpoints):
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    owl = OwlViT(str(checkpoints / "owl"))
    reference, image = picture(0), picture(1, count=2, size=80)
    seen = owl.query(reference, None)
    boxes, scores = owl.find(image, seen.embedding[None])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    resized = F.interpolate(image, (64, 64), mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        expected = owl.network.image_guided_detection(
            pixel_values=(resized - mean) / std, query_pixel_values=((reference - mean) / std).expand(2, -1, -1, -1)
        )
    torch.testing.assert_close(scores[:, 0], expected.logits[..., 0].sigmoid())
    centre, extent = expected.target_pred_boxes.split(2, dim=-1)
    corners = torch.cat([centre - extent / 2, centre + extent / 2], -1).clamp(0, 1) * 80
    torch.testing.assert_close(boxes, corners)


def test_text_finds_what_text_guided_detection_finds(checkpoints):
    from transformers import AutoTokenizer

    owl = OwlViT(str(checkpoints / "owl"))
    reference = picture(0)
    seen = owl.query(reference, "a cat")
    tokens = AutoTokenizer.from_pretrained(checkpoints / "owl")(
        ["a cat"], padding="max_length", max_length=16, return_tensors="pt"
    )
    with torch.no_grad():
        expected = owl.network(pixel_values=owl._preparation(reference), **tokens)
    best = expected.logits[0, :, 0].argmax()
    assert seen.score == pytest.approx(expected.logits[0, best, 0].sigmoid().item(), abs=1e-6)
    torch.testing.assert_close(F.normalize(seen.embedding, dim=0), expected.class_embeds[0, best])


def test_networks_load_from_folders_and_the_loss_guides(checkpoints):
    loss = gf.load_loss(
        "subject",
        reference=[picture(0)[0], picture(3)[0]],
        text=["a cat", "a dog"],
        network=str(checkpoints / "dino"),
        detector=str(checkpoints / "owl"),
        size=56,
        floor=0.0,
        l1=10.0,
    )
    image = picture(1, count=2).requires_grad_()
    value = loss(image)
    (gradient,) = torch.autograd.grad(value.sum(), image)
    assert value.shape == (2,) and value.isfinite().all() and gradient.isfinite().all()
    assert gradient.flatten(1).any(1).all()


def test_dinov2_features_are_the_class_token(checkpoints):
    loss = Subject(picture(0)[0], network=str(checkpoints / "dino"), detector=None, size=56)
    network = loss._features.network
    crops = F.interpolate(picture(1), (56, 56), mode="bilinear")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = F.normalize(network((crops - mean) / std).last_hidden_state[:, 0], dim=1)
    torch.testing.assert_close(loss._features.embed(crops), expected)


def test_missing_weights_name_the_cure(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingWeights, match="network='path/to/folder'"):
        Subject(picture(0), network=str(tmp_path / "empty"), detector=None)


def test_a_network_without_one_of_its_weights_is_refused(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints / "dino", tmp_path / "dino")
    weights = load_file(folder / "model.safetensors")
    weights.pop("layernorm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingWeights, match=r"no weights for layernorm\.weight"):
        Subject(picture(0), network=str(folder), detector=None)


def test_a_folder_cannot_bring_code_along(monkeypatch, tmp_path):
    folder = traps.remote_code(tmp_path / "custom", tmp_path / "marker", "AutoModel", "PretrainedConfig")
    monkeypatch.setattr("builtins.input", lambda prompt: "y")  # transformers would ask at the terminal
    with pytest.raises(MissingWeights, match="network='path/to/folder'"):
        Subject(picture(0), network=folder, detector=None, size=56)
    assert not (tmp_path / "marker").exists()


def test_a_folders_processor_says_how_its_network_is_normalised(checkpoints, tmp_path):
    for name, kind in (("dino", "BitImageProcessor"), ("owl", "OwlViTImageProcessor")):
        shutil.copytree(checkpoints / name, tmp_path / name)
        options = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
        options |= {"size": {"height": 64, "width": 64}} if name == "owl" else {}
        getattr(transformers, kind)(**options).save_pretrained(tmp_path / name)
    loss = Subject(picture(0)[0], network=tmp_path / "dino", detector=None, size=56)
    assert loss._features.normalisation == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    owl = OwlViT(str(tmp_path / "owl"))
    bytes_ = (picture(0) * 255).to(torch.uint8)
    expected = transformers.OwlViTImageProcessor.from_pretrained(tmp_path / "owl")(bytes_, return_tensors="pt")
    found = owl._preparation(bytes_.float() / 255)
    torch.testing.assert_close(found, expected["pixel_values"], rtol=0, atol=2.2 / 255)
    transformers.OwlViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "owl")
    with pytest.raises(InvalidArgument, match="no whole images of 64 x 64"):
        OwlViT(str(tmp_path / "owl"))


def test_a_text_that_the_detector_does_not_read_to_its_end_is_told(checkpoints):
    owl = OwlViT(str(checkpoints / "owl"))
    with pytest.warns(UserWarning, match="the detector reads: '.*' is not seen"):
        owl.query(picture(0), "abcdefghijklmnopqrstuvwxyz" * 2)


def test_a_detector_that_does_not_say_is_normalised_as_clip(checkpoints):
    bytes_ = (picture(0) * 255).to(torch.uint8)
    theirs = transformers.OwlViTImageProcessor(size={"height": 64, "width": 64})
    found = OwlViT(str(checkpoints / "owl"))._preparation(bytes_.float() / 255)
    torch.testing.assert_close(found, theirs(bytes_, return_tensors="pt")["pixel_values"], rtol=0, atol=4.2 / 255)
