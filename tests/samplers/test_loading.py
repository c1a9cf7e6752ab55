"""Every form a checkpoint comes in loads the same weights; what cannot be loaded says what to type."""

import json
import os
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from guideflow._devices import as_dtype
from guideflow.errors import InvalidArgument, MissingWeights
from guideflow_diffusers.hub import find_weights
from guideflow_diffusers.latent import LatentSampler
from guideflow_diffusers.lora import stability_name
from guideflow_diffusers.parts import load_parts
from guideflow_diffusers.perflow import perflow_schedule

HUB = "somebody/tiny-model"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny.sd15(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return tiny.sd15(tmp_path_factory.mktemp("second"), seed=7)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache and no network; returns a function that puts a folder into the cache."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def store(folder, name=HUB):
        repository = cache / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, repository / "snapshots" / ("0" * 40))

    return store


def same(one, two):
    mine, theirs = one.state_dict(), two.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name].to(mine[name])) for name in mine)


def rename(checkpoint, folder, variant):
    """Copy a checkpoint with all of its weights named after a variant."""
    shutil.copytree(checkpoint, folder)
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(f"{path.stem}.{variant}.safetensors"))
    return folder


def test_a_folder_a_hub_id_and_a_path_as_text_are_alike(checkpoint, hub):
    hub(checkpoint)
    one, two, three = load_parts(checkpoint), load_parts(HUB), load_parts(str(checkpoint))
    for name in ("unet", "vae", "text_encoder"):
        assert same(getattr(one, name), getattr(two, name)) and same(getattr(one, name), getattr(three, name))
    assert one.tokenizer("a cat").input_ids == two.tokenizer("a cat").input_ids


def test_base_provides_all_but_the_denoiser(checkpoint, second):
    parts, first, other = load_parts(checkpoint, base=second), load_parts(checkpoint), load_parts(second)
    assert same(parts.unet, first.unet) and not same(parts.unet, other.unet)
    assert same(parts.vae, other.vae) and same(parts.text_encoder, other.text_encoder)


@pytest.mark.parametrize("form", ["folder", "inside", "file", "hub", "hub-file"])
def test_a_denoiser_by_itself(checkpoint, second, hub, tmp_path, form):
    alone = tmp_path / "alone"
    shutil.copytree(checkpoint / "unet", alone / "unet" if form == "inside" else alone)
    given = alone
    if form == "file":
        given = alone / "diffusion_pytorch_model.safetensors"
    elif form.startswith("hub"):
        hub(alone)
        given = HUB if form == "hub" else f"{HUB}:diffusion_pytorch_model.safetensors"
    parts = load_parts(given, base=second)
    assert same(parts.unet, load_parts(checkpoint).unet)
    assert same(parts.vae, load_parts(second).vae)
    with pytest.raises(InvalidArgument, match="base="):
        load_parts(given)


def test_a_file_of_denoiser_weights_needs_only_the_configuration_of_its_base(checkpoint, second, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(second, base)
    (base / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    file = checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    parts = load_parts(file, base=base, dtype="bfloat16")
    assert parts.unet.dtype == torch.bfloat16 and same(parts.unet, load_parts(checkpoint, dtype="bfloat16").unet)
    save_file({name: w for name, w in load_file(file).items() if name != "conv_in.bias"}, tmp_path / "part.safetensors")
    with pytest.raises(InvalidArgument, match=r"lacks 1 tensors \(conv_in.bias\)"):
        load_parts(tmp_path / "part.safetensors", base=base)


def test_a_lora_as_checkpoint_is_merged_into_its_base(checkpoint, tmp_path):
    lora = tiny.lora(checkpoint, tmp_path / "lora.safetensors")
    assert same(load_parts(lora, base=checkpoint).unet, load_parts(checkpoint, lora=lora).unet)
    with pytest.raises(InvalidArgument, match=r"is a LoRA by itself. Give base="):
        load_parts(lora)


def test_delta_then_lora(checkpoint, tmp_path):
    delta, lora = tiny.delta(checkpoint, tmp_path / "d.safetensors"), tiny.lora(checkpoint, tmp_path / "l.safetensors")
    plain, one = load_parts(checkpoint).unet, load_parts(checkpoint, delta=delta).unet
    two, both = load_parts(checkpoint, lora=lora).unet, load_parts(checkpoint, delta=delta, lora=lora).unet
    for a, b, c, d in zip(*(network.parameters() for network in (plain, one, two, both)), strict=True):
        torch.testing.assert_close(d - a, (b - a) + (c - a), atol=1e-5, rtol=1e-4)


def test_variants(checkpoint, second, hub, tmp_path):
    hub(rename(checkpoint, tmp_path / "v0-fix", "v0-fix"))
    plain = load_parts(checkpoint)
    for given in (tmp_path / "v0-fix", HUB):
        assert same(load_parts(given, variant="v0-fix").unet, plain.unet)
    mixed = tmp_path / "mixed"
    shutil.copytree(checkpoint, mixed)
    shutil.copy(
        second / "unet" / "diffusion_pytorch_model.safetensors",
        mixed / "unet" / "diffusion_pytorch_model.v1.safetensors",
    )
    assert same(load_parts(mixed).unet, plain.unet)
    found = load_parts(mixed, variant="v1")  # only the denoiser has it: the others are taken without
    assert same(found.unet, load_parts(second).unet) and same(found.vae, plain.vae)
    with pytest.raises(InvalidArgument, match=r"variant = 'v2'.*found diffusion_pytorch_model.safetensors, .*v1"):
        load_parts(mixed, variant="v2")
    delta = tiny.delta(checkpoint, tmp_path / "delta" / "diffusion_pytorch_model.v2.safetensors")
    assert not same(load_parts(checkpoint, variant="v2", delta=delta.parent).unet, plain.unet)


@pytest.mark.parametrize(
    ("given", "vae"),
    [("float32", "float32"), ("bfloat16", "float32"), ("float16", "float32"), ("float64", "float64")],
)
def test_dtypes(checkpoint, given, vae):
    for dtype in (given, getattr(torch, given)):
        parts = load_parts(checkpoint, dtype=dtype)
        assert parts.unet.dtype == parts.text_encoder.dtype == getattr(torch, given)
        assert parts.vae.dtype == getattr(torch, vae)


@pytest.mark.parametrize("word", ["int64", "float31", "nn"])
def test_other_dtypes_are_refused(word):
    with pytest.raises(InvalidArgument, match="Expected one of: 'float32'"):
        as_dtype(word)


def stability_file(checkpoint, path):
    """Write a tiny SD 1.5 in Stability's layout, as community models are shared."""
    parts = load_parts(checkpoint)
    tensors = {}
    for name, tensor in parts.unet.state_dict().items():
        layer, _, kind = name.rpartition(".")
        tensors[f"model.diffusion_model.{stability_name(layer, 1).replace('upsampler', '2')}.{kind}"] = tensor
    swaps = [
        (r"(en|de)coder\.mid_block\.resnets\.0", r"\1coder.mid.block_1"),
        (r"(en|de)coder\.mid_block\.resnets\.1", r"\1coder.mid.block_2"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"mid_block\.attentions\.0\.to_", "mid.attn_1."),
        (r"down_blocks\.(\d)\.resnets\.", r"down.\1.block."),
        (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        (r"up_blocks\.(\d)\.resnets\.", lambda match: f"up.{1 - int(match[1])}.block."),
        (r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"up.{1 - int(match[1])}.upsample"),
        (r"conv_norm_out", "norm_out"),
        (r"conv_shortcut", "nin_shortcut"),
    ]
    for name, tensor in parts.vae.state_dict().items():
        attention = "mid_block.attentions" in name and "group_norm" not in name
        for ours, theirs in swaps:
            name = re.sub(ours, theirs, name)
        if attention and name.endswith("weight"):
            tensor = tensor[:, :, None, None]
        tensors[f"first_stage_model.{name}"] = tensor
    for name, tensor in parts.text_encoder.state_dict().items():
        tensors["cond_stage_model.transformer.text_model." + name.removeprefix("text_model.")] = tensor
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def test_a_whole_model_in_one_file(checkpoint, second, tmp_path, hub):
    file = stability_file(checkpoint, tmp_path / "community.safetensors")
    parts, plain = load_parts(file, base=second), load_parts(checkpoint)
    assert same(parts.unet, plain.unet)
    assert same(parts.vae, load_parts(second).vae)
    hub(second, "stable-diffusion-v1-5/stable-diffusion-v1-5")  # where configurations and tokenizers come from
    parts = load_parts(file)
    assert same(parts.unet, plain.unet) and same(parts.vae, plain.vae) and same(parts.text_encoder, plain.text_encoder)


@pytest.mark.parametrize("there", [("model.", "cond_"), ("model.", "first_"), ("model.",)], ids=str)
def test_one_file_without_some_parts_takes_them_from_its_base(checkpoint, second, tmp_path, there):
    whole = load_file(stability_file(checkpoint, tmp_path / "whole.safetensors"))
    file = tmp_path / "part.safetensors"
    save_file({name: w for name, w in whole.items() if name.startswith(there)}, file)
    parts = load_parts(file, base=second)
    assert same(parts.unet, load_parts(checkpoint).unet) and same(parts.vae, load_parts(second).vae)
    with pytest.raises(InvalidArgument, match=r"has no (autoencoder|text encoder).* Give base="):
        load_parts(file)


def test_a_denoiser_without_the_name_of_the_model_around_it(checkpoint, second, tmp_path):
    whole, start = load_file(stability_file(checkpoint, tmp_path / "whole.safetensors")), "model.diffusion_model."
    bare = {name.removeprefix(start): w for name, w in whole.items() if name.startswith(start)}
    save_file(bare, tmp_path / "bare.safetensors")
    assert same(load_parts(tmp_path / "bare.safetensors", base=second).unet, load_parts(checkpoint).unet)
    with pytest.raises(InvalidArgument, match=r"has no autoencoder and no text encoder. Give base="):
        load_parts(tmp_path / "bare.safetensors")
    save_file({name: w for name, w in bare.items() if name != "out.2.bias"}, tmp_path / "part.safetensors")
    with pytest.raises(InvalidArgument, match=r"conv_out\.bias"):
        load_parts(tmp_path / "part.safetensors", base=second)


@pytest.mark.parametrize("part", ["cond_stage_model", "first_stage_model"])
def test_a_file_without_a_denoiser_says_what_it_holds(checkpoint, second, tmp_path, part):
    whole = load_file(stability_file(checkpoint, tmp_path / "whole.safetensors"))
    save_file({name: w for name, w in whole.items() if name.startswith(part)}, tmp_path / "part.safetensors")
    for base in ({}, {"base": second}):
        with pytest.raises(InvalidArgument, match=f"has no denoiser: found {part} only"):
            load_parts(tmp_path / "part.safetensors", **base)


def test_one_file_that_lacks_a_tensor_is_refused(checkpoint, second, tmp_path, hub):
    hub(second, "stable-diffusion-v1-5/stable-diffusion-v1-5")
    whole = load_file(stability_file(checkpoint, tmp_path / "whole.safetensors"))
    for lost, name in {
        "model.diffusion_model.out.2.bias": "conv_out.bias",
        "first_stage_model.decoder.conv_out.bias": "decoder.conv_out.bias",
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": "final_layer_norm.weight",
    }.items():
        save_file({key: w for key, w in whole.items() if key != lost}, tmp_path / "part.safetensors")
        with pytest.raises(InvalidArgument, match=name):
            load_parts(tmp_path / "part.safetensors")
    save_file(whole | {"model_ema.extra.weight": torch.zeros(2)}, tmp_path / "more.safetensors")
    assert same(load_parts(tmp_path / "more.safetensors", base=second).unet, load_parts(checkpoint).unet)
    scaled = {"model.diffusion_model.out.2.scale_weight": torch.full((), 0.5)}  # how factors of 8-bit weights are named
    save_file(whole | scaled, tmp_path / "scaled.safetensors")
    with pytest.raises(InvalidArgument, match=r"1 tensors \(model.diffusion_model.out.2.scale_weight\)"):
        load_parts(tmp_path / "scaled.safetensors", base=second)


@pytest.mark.parametrize("what", ["empty", "lora", "vae", "pipe", "device"])
def test_a_checkpoint_of_which_nothing_would_be_used_is_refused(checkpoint, second, tmp_path, what):
    given = tmp_path / "given"
    if what in ("empty", "lora"):
        given.mkdir()
        if what == "lora":
            tiny.lora(checkpoint, given / "pytorch_lora_weights.safetensors")
    elif what == "vae":
        shutil.copytree(checkpoint / "vae", given / "vae")
    elif what == "pipe":
        given = tmp_path / "pipe.safetensors"
        os.mkfifo(given)
    else:
        given = "/dev/zero"
    with pytest.raises(InvalidArgument, match=r"has no denoiser.*LoRA is given as lora="):
        load_parts(given, base=second)


def test_text_encoders_of_another_base_are_refused(checkpoint, tmp_path):
    with pytest.raises(InvalidArgument, match=r"give 24 numbers a token and the denoiser takes 16.*base="):
        load_parts(checkpoint, base=tiny.sd21(tmp_path / "sd21"))


def test_an_inpainting_denoiser_is_refused(checkpoint, tmp_path):
    folder = tmp_path / "inpainting"
    shutil.copytree(checkpoint, folder)
    with torch.random.fork_rng():
        tiny._unet(in_channels=9).save_pretrained(folder / "unet")
    with pytest.raises(InvalidArgument, match=r"4 latent channels and the denoiser takes 9"):
        load_parts(folder)


def test_what_is_missing_is_named(checkpoint, tmp_path):
    folder = tmp_path / "part"
    shutil.copytree(checkpoint, folder)
    shutil.rmtree(folder / "vae")
    with pytest.raises(InvalidArgument, match=r"no diffusers folder: vae not found.*Or give base="):
        load_parts(folder)
    with pytest.raises(InvalidArgument, match=r"no file or folder \./nowhere/at/all, given as checkpoint"):
        load_parts("./nowhere/at/all")
    with pytest.raises(InvalidArgument, match="given as base"):
        load_parts(checkpoint, base="nowhere")
    config = folder / "unet" / "config.json"
    config.write_text(config.read_text().replace("UNet2DConditionModel", "NoSuchModel"))
    shutil.copytree(checkpoint / "vae", folder / "vae")
    with pytest.raises(InvalidArgument, match="'NoSuchModel', which is no network of diffusers"):
        load_parts(folder)


def test_without_network_the_command_to_type_is_told(hub):
    with pytest.raises(MissingWeights) as caught:
        load_parts("hansyan/perflow-sdxl-base", variant="v0-fix")
    message = str(caught.value)
    for part in (
        "'hansyan/perflow-sdxl-base' are not on this machine",
        "\n  hf download hansyan/perflow-sdxl-base --include '*.json'",
        "--include unet/diffusion_pytorch_model.v0-fix.safetensors",
        "--include text_encoder_2/model.v0-fix.safetensors",
        "--local-dir perflow-sdxl-base",
        "checkpoint='perflow-sdxl-base'",
    ):
        assert part in message, message
    assert "safety_checker" not in message
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("option", ["base", "delta", "lora"])
def test_the_option_that_lacks_weights_is_named(checkpoint, hub, option):
    name = "somebody/else" if option == "base" else "somebody/else:file.safetensors"
    with pytest.raises(MissingWeights, match=rf"(?s)hf download somebody/else .*{option}='else"):
        load_parts(checkpoint, **{option: name})


def test_only_what_is_needed_is_asked_for(checkpoint, hub, monkeypatch):
    asked = {}

    def download(repo, allow_patterns):
        asked[repo] = allow_patterns
        return str(checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    load_parts("a/styled", base="b/base")
    assert not any(p.startswith(("vae", "text")) for p in asked["a/styled"])
    assert not any(p.startswith("unet") for p in asked["b/base"])
    assert "unet/diffusion_pytorch_model.safetensors" in asked["a/styled"]
    assert not any("ckpt" in p or ".bin" in p or p == "*.safetensors" for p in asked["b/base"])


def test_an_incomplete_cache_is_noticed(checkpoint, hub, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    (broken / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    hub(broken)
    with pytest.raises(MissingWeights, match=rf"(?s)the weights of vae are missing.*hf download {HUB}"):
        load_parts(HUB)


def test_a_denoiser_cannot_pass_for_a_pipeline_that_brings_code_along(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "model/unet/custom.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")
    (tmp_path / "model/unet/model_index.json").write_text(json.dumps({"_class_name": ["custom", "Custom"]}))
    for name in ("DiffusionPipeline", "loaders", "ConfigMixin", "no_such_class"):
        (tmp_path / "model/unet/config.json").write_text(json.dumps({"_class_name": name}))
        with pytest.raises(InvalidArgument, match=f"the class '{name}', which is no network"):
            load_parts(tmp_path / "model")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "entry",
    [["evil", "Evil"], ["diffusers", "DiffusionPipeline"], ["transformers", "AutoTokenizer"], ["os", "UNet2DModel"]],
    ids=str,
)
def test_an_index_cannot_make_a_single_file_import_anything(entry, checkpoint, tmp_path, monkeypatch, hub):
    shutil.copytree(checkpoint, tmp_path / "base")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    index = json.loads((tmp_path / "base/model_index.json").read_text())
    (tmp_path / "base/model_index.json").write_text(json.dumps(index | {"tokenizer": entry}))
    hub(tmp_path / "base", "stable-diffusion-v1-5/stable-diffusion-v1-5")
    file = stability_file(checkpoint, tmp_path / "whole.safetensors")
    assert load_parts(file).tokenizer("a cat").input_ids == load_parts(checkpoint).tokenizer("a cat").input_ids
    assert not (tmp_path / "marker").exists()


def test_a_small_decoder_of_pickles_is_not_read(checkpoint, tmp_path):
    from diffusers import AutoencoderTiny

    taesd = AutoencoderTiny.from_pretrained(tiny.tiny_decoder(tmp_path))
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    taesd.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(MissingWeights, match="decoder_gradient"):
        LatentSampler(load_parts(checkpoint), perflow_schedule(), decoder_gradient=tmp_path)


def test_which_weights_of_a_folder(tmp_path):
    one = tmp_path / "pytorch_lora_weights.safetensors"
    one.touch()
    assert find_weights(tmp_path, option="lora") == [one]
    (tmp_path / "b.safetensors").touch()
    with pytest.raises(InvalidArgument, match=r"found b.safetensors, pytorch_lora_weights.safetensors. Give the file"):
        find_weights(tmp_path, option="lora")
    (tmp_path / "old.ckpt").touch()
    with pytest.raises(InvalidArgument, match=r"not a .safetensors file"):
        find_weights(tmp_path / "old.ckpt", option="lora")


def test_image_sizes(checkpoint):
    parts = load_parts(checkpoint)
    assert LatentSampler(parts, perflow_schedule()).image_size == (tiny.PICTURE, tiny.PICTURE)
    assert LatentSampler(parts, perflow_schedule(), image_size=(32, 16)).latent_shape == (4, 16, 8)
    with pytest.raises(InvalidArgument, match="multiples of 2"):
        LatentSampler(parts, perflow_schedule(), image_size=(16, 15))


def test_the_tiny_checkpoints_are_what_diffusers_reads(checkpoint):
    index = json.loads((checkpoint / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert {"vocab.json", "merges.txt"} <= {path.name for path in (checkpoint / "tokenizer").iterdir()}
