"""Weights that are missing, left over, damaged or random: every way of loading refuses them, naming what is wrong."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import guideflow as gf
import tiny
from guideflow.errors import InvalidArgument, MissingWeights, OutOfMemory
from guideflow.losses.networks import freeze
from guideflow.losses.weights import read_weights
from guideflow_diffusers.ip_adapter import with_ip_adapter
from guideflow_diffusers.latent import LatentSampler
from guideflow_diffusers.parts import load_parts
from guideflow_diffusers.perflow import perflow_schedule

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n"
FILES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
FILES |= dict.fromkeys(("text_encoder", "text_encoder_2"), "model")
PARTS = pytest.mark.parametrize("part", FILES)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return tiny.sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture
def checkpoint(sdxl, tmp_path):
    return shutil.copytree(sdxl, tmp_path / "checkpoint")


def change(file, edit):
    """Write a file of weights again, of which `edit` changes the mapping in place."""
    weights = load_file(file)
    edit(weights)
    save_file(weights, file, metadata={"format": "pt"})


DAMAGES = {
    "pointer": (lambda data: POINTER, "git-lfs pointer"),
    "cut": (lambda data: data[: len(data) // 2], "cannot be read"),
    "header cut": (lambda data: data[:100], "cannot be read"),
    "empty": (lambda data: b"", "is empty"),
    "a web page": (lambda data: b"<!DOCTYPE html><html>401</html>", "cannot be read"),
}


@PARTS
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_whole(checkpoint, part, damage):
    file = checkpoint / part / f"{FILES[part]}.safetensors"
    spoil, message = DAMAGES[damage]
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(InvalidArgument, match=message) as caught:
        load_parts(checkpoint)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@PARTS
def test_tensors_that_are_not_the_networks_own(checkpoint, part):
    file = checkpoint / part / f"{FILES[part]}.safetensors"
    name = sorted(load_file(file))[5]
    edits = {
        "no weights for": lambda weights: weights.pop(name),
        "are no weights of": lambda weights: weights.update({"a.left.over": torch.zeros(2)}),
        "shape": lambda weights: weights.update({name: torch.zeros(3, 5)}),
    }
    whole = file.read_bytes()
    for message, edit in edits.items():
        file.write_bytes(whole)
        change(file, edit)
        with pytest.raises(InvalidArgument, match=message) as caught:
            load_parts(checkpoint)
        text = str(caught.value)
        wanted = "a.left.over" if message.startswith("are") else name.removeprefix("text_model.")
        assert wanted in text and str(checkpoint / part) in text and "\n" not in text


@PARTS
def test_a_text_encoder_is_never_random(checkpoint, part):
    change(
        checkpoint / part / f"{FILES[part]}.safetensors", lambda w: [w.update({f"x.{n}": w.pop(n)}) for n in list(w)]
    )
    with pytest.raises(InvalidArgument, match="would be partly random"):
        load_parts(checkpoint)


def test_a_buffer_of_older_checkpoints_is_no_weight(checkpoint):
    ids = {"text_model.embeddings.position_ids": torch.arange(tiny.TOKENS)[None]}
    change(checkpoint / "text_encoder" / "model.safetensors", lambda weights: weights.update(ids))
    assert load_parts(checkpoint).text_encoder is not None


@PARTS
@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_weights_of_whole_numbers_are_not_taken_for_others(checkpoint, part, kind):
    def edit(weights):
        weights[name] = weights[name].to(kind)

    file = checkpoint / part / f"{FILES[part]}.safetensors"
    name = sorted(load_file(file))[5]
    change(file, edit)
    with pytest.raises(InvalidArgument, match=r"are (whole|complex) numbers"):
        load_parts(checkpoint)


@PARTS
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16], ids=str)
def test_weights_of_few_bits_are_read_as_they_are(checkpoint, part, kind):
    file = checkpoint / part / f"{FILES[part]}.safetensors"
    name = sorted(load_file(file))[5]
    values = load_file(file)[name].to(kind)
    change(file, lambda weights: weights.update({name: values}))
    found = getattr(load_parts(checkpoint), part).state_dict()
    assert torch.equal(next(one for key, one in found.items() if key.endswith(name)), values.float())


NUMBERS = {
    "nan": (lambda tensor: tensor * float("nan"), "holds nan or infinite numbers"),
    "inf": (lambda tensor: tensor + float("inf"), "holds nan or infinite numbers"),
}


@PARTS
@pytest.mark.parametrize("damage", NUMBERS)
def test_weights_that_are_no_numbers_are_refused_by_name(checkpoint, part, damage):
    spoil, message = NUMBERS[damage]
    file = checkpoint / part / f"{FILES[part]}.safetensors"
    name = sorted(load_file(file))[5]
    change(file, lambda weights: weights.update({name: spoil(weights[name])}))
    with pytest.raises(InvalidArgument, match=f"{name} {message}"):
        load_parts(checkpoint)


@PARTS
def test_a_file_of_zeros_was_not_downloaded_to_its_end(checkpoint, part):
    change(checkpoint / part / f"{FILES[part]}.safetensors", lambda weights: [one.zero_() for one in weights.values()])
    with pytest.raises(InvalidArgument, match="weights are all zero"):
        load_parts(checkpoint)


@pytest.mark.parametrize("given", [float("nan"), float("inf"), 0, "0.18", [1.0], True], ids=repr)
def test_latents_are_scaled_by_numbers(checkpoint, given):
    file = checkpoint / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scaling_factor": given}))
    with pytest.raises(InvalidArgument, match="autoencoder has scaling_factor="):
        gf.load_sampler("perflow-sdxl", checkpoint=str(checkpoint), variant=None)


def test_a_network_that_fits_into_no_memory_is_told(checkpoint):
    file = checkpoint / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"block_out_channels": [10**9, 10**9]}))
    with pytest.raises(OutOfMemory, match="not enough memory to load the sampler 'perflow-sdxl'"):
        gf.load_sampler("perflow-sdxl", checkpoint=str(checkpoint), variant=None)


def test_a_network_for_a_loss_has_numbers_for_weights(tmp_path):
    network = torch.nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        network.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(InvalidArgument, match="Conv2d cannot be looked through: weight holds nan"):
        freeze(network)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(InvalidArgument, match="weight holds nan"):
        read_weights(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    "case", ["whole", "missing", "../b.safetensors", "no map", "no names", "twice", "moved", "no metadata"]
)
def test_shards_are_those_of_the_folder(checkpoint, case):
    folder = checkpoint / "vae"
    weights = load_file(folder / f"{FILES['vae']}.safetensors")
    (folder / f"{FILES['vae']}.safetensors").unlink()
    names = sorted(weights)
    places = {name: f"{FILES['vae']}-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for place in set(places.values()):
        save_file({name: weights[name] for name in names if places[name] == place}, folder / place, {"format": "pt"})
    if case == "missing":
        (folder / places[names[0]]).unlink()
    if case.startswith(".."):
        places |= dict.fromkeys(names[::2], case)
        (folder / f"{FILES['vae']}-00001-of-00002.safetensors").rename(checkpoint / "b.safetensors")
    if case == "moved":
        places[names[0]] = places[names[1]]
    if case == "twice":
        second = folder / places[names[1]]
        save_file(load_file(second) | {names[0]: weights[names[0]] + 1}, second, {"format": "pt"})
    places = {"no map": 3, "no names": {name: [1] for name in names}}.get(case, places)
    index = {"weight_map": places} | ({} if case == "no metadata" else {"metadata": {"total_size": 1}})
    (folder / f"{FILES['vae']}.safetensors.index.json").write_text(json.dumps(index))
    if case == "whole":
        assert torch.equal(load_parts(checkpoint).vae.state_dict()[names[0]], weights[names[0]])
        return
    with pytest.raises(
        InvalidArgument, match=r"index.json (names .* no such file|does not|has no|names for them)|is both in"
    ):
        load_parts(checkpoint)


@PARTS
def test_only_a_variant_is_there(checkpoint, part):
    file = checkpoint / part / f"{FILES[part]}.safetensors"
    file.rename(file.with_name(f"{FILES[part]}.fp16.safetensors"))
    with pytest.raises(InvalidArgument, match=r"no plain weights: found .*\.fp16\.safetensors\. Type variant='fp16'"):
        load_parts(checkpoint)


@pytest.mark.parametrize("content", ["{", "[]", "\x00", ""])
@pytest.mark.parametrize("part", [*FILES, "tokenizer"])
def test_configurations_that_are_none(checkpoint, part, content):
    name = "tokenizer_config.json" if part == "tokenizer" else "config.json"
    (checkpoint / part / name).write_text(content)
    with pytest.raises(InvalidArgument, match=part):
        load_parts(checkpoint)


def test_tokenizers_without_what_they_need(checkpoint):
    whole = load_parts(checkpoint)
    (checkpoint / "tokenizer" / "tokenizer_config.json").unlink()  # which says how long a prompt may be
    sampler = LatentSampler(load_parts(checkpoint), perflow_schedule(4))
    expected = LatentSampler(whole, perflow_schedule(4)).condition(["a cat"])
    assert sampler.condition(["a cat"]).text.shape == expected.text.shape
    (checkpoint / "tokenizer" / "vocab.json").unlink()
    with pytest.raises(InvalidArgument, match="tokenizer"):
        load_parts(checkpoint)


def test_adapters_and_small_decoders(sdxl, tmp_path):
    parts = load_parts(sdxl)
    lora = tiny.lora(sdxl, tmp_path / "lora.safetensors")
    lora.write_bytes(POINTER)
    for option in ("lora", "delta"):
        with pytest.raises(InvalidArgument, match="git-lfs pointer"):
            load_parts(sdxl, **{option: lora})
    folder = tiny.tiny_decoder(tmp_path / "small")
    change(folder / "diffusion_pytorch_model.safetensors", lambda weights: weights.popitem())
    with pytest.raises(InvalidArgument, match="no weights for"):
        LatentSampler(parts, perflow_schedule(), decoder_gradient=folder)
    base = tiny.sd15(tmp_path / "sd15")
    adapter = tiny.ip_adapter(tmp_path / "adapter", base)
    change(adapter / "image_encoder" / "model.safetensors", lambda weights: weights.pop("visual_projection.weight"))
    with pytest.raises(InvalidArgument, match="visual_projection"):
        with_ip_adapter(load_parts(base), adapter / "ip-adapter.safetensors", torch.rand(3, 16, 16))
    (adapter / "ip-adapter.safetensors").write_bytes(POINTER)
    with pytest.raises(InvalidArgument, match="git-lfs pointer"):
        with_ip_adapter(load_parts(base), adapter / "ip-adapter.safetensors", torch.rand(3, 16, 16))


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dino")
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.pop("embeddings.cls_token"), r"no weights for embeddings\.cls_token"),
        (lambda w: w.update(more=torch.zeros(1)), "more in it are no weights"),
        (lambda w: w.update({"layernorm.bias": torch.zeros(3)}), r"layernorm\.bias has shape \(3,\)"),
    ],
)
def test_networks_of_losses(dino, tmp_path, edit, message):
    folder = shutil.copytree(dino, tmp_path / "dino")
    change(folder / "model.safetensors", edit)
    with pytest.raises(MissingWeights, match=message) as caught:
        gf.load_loss("subject", reference=torch.rand(3, 28, 28), network=folder, detector=None, size=28)
    assert "hf download" not in str(caught.value)


def test_a_network_may_lack_the_head_of_what_it_was_saved_as(dino, tmp_path):
    from transformers import Dinov2Config, Dinov2ForImageClassification

    Dinov2ForImageClassification(Dinov2Config.from_pretrained(dino)).save_pretrained(tmp_path)
    gf.load_loss("subject", reference=torch.rand(3, 28, 28), network=tmp_path, detector=None, size=28)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_files_of_weights(tmp_path, suffix, damage):
    file = tmp_path / f"vgg.{suffix}"
    save_file({"features.0.weight": torch.zeros(64)}, file)
    file.write_bytes(DAMAGES[damage][0](file.read_bytes()))
    with pytest.raises(InvalidArgument, match=str(file)):
        read_weights(file)
    if suffix == "pth":
        with pytest.raises((InvalidArgument, MissingWeights), match=str(file)):
            gf.load_loss("clip", text="a cat", network="RN50", checkpoint=file, quick_gelu=True)


def test_a_pipe_is_no_file_of_weights(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(InvalidArgument, match="no file"):
        read_weights(tmp_path / "pipe.safetensors")


def test_json_of_a_segmentation_network(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(InvalidArgument, match=r"config\.json holds a list"):
        gf.load_loss("segmentation", layout=torch.zeros(2, 2, dtype=torch.long), network=tmp_path)
