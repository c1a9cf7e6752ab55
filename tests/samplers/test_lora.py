"""Merging LoRAs and delta weights: against the definition written out in float64, and against names diffusers knows."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import tiny
from guideflow.errors import InvalidArgument
from guideflow_diffusers.lora import merge_lora, stability_name
from guideflow_diffusers.parts import load_parts
from guideflow_diffusers.weights import Weights


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny.sd15(tmp_path_factory.mktemp("sd15"))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return tiny.sdxl(tmp_path_factory.mktemp("sdxl"))


def weights_of(network):
    return {name: tensor.double() for name, tensor in network.named_parameters()}


def expected_weights(checkpoint, lora, factor):
    """The definition in float64, convolutions by an explicit contraction."""
    weights = weights_of(tiny.load_unet(checkpoint))
    tensors = {name: tensor.double() for name, tensor in load_file(lora).items()}
    changed = 0
    for name, weight in weights.items():
        flat = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        if f"{flat}.lora_down.weight" not in tensors:
            continue
        down, up = tensors[f"{flat}.lora_down.weight"], tensors[f"{flat}.lora_up.weight"]
        equation = "or,ri->oi" if weight.ndim == 2 else "or,rihw->oihw"
        weights[name] = weight + factor * torch.einsum(equation, up[:, :, 0, 0] if up.ndim == 4 else up, down)
        changed += 1
    assert changed == sum(name.endswith("lora_down.weight") for name in tensors)
    return weights


@pytest.mark.parametrize(("rank", "alpha", "scale"), [(2, 1.0, 1.0), (4, 8.0, 0.5), (3, 3.0, -1.0)])
def test_a_merge_is_the_definition(checkpoint, tmp_path, rank, alpha, scale):
    lora = tiny.lora(checkpoint, tmp_path / "lora.safetensors", rank=rank, alpha=alpha)
    merged = weights_of(load_parts(checkpoint, lora=lora, lora_scale=scale).unet)
    for name, weight in expected_weights(checkpoint, lora, scale * alpha / rank).items():
        torch.testing.assert_close(merged[name], weight, atol=1e-6, rtol=1e-6, msg=name)


def test_whole_differences_of_weights_and_biases_are_added(checkpoint, tmp_path):
    path = tiny.lora(checkpoint, tmp_path / "lora.safetensors", rank=2, alpha=2.0)
    plain = weights_of(load_parts(checkpoint, lora=path, lora_scale=0.5).unet)
    differences = {
        "conv_in.diff_b": torch.randn(plain["conv_in.bias"].shape),
        "conv_norm_out.diff": torch.randn(plain["conv_norm_out.weight"].shape),
        "mid_block_resnets_0_conv1.diff_b": torch.randn(plain["mid_block.resnets.0.conv1.bias"].shape),  # beside a pair
    }
    save_file(load_file(path) | {f"lora_unet_{key}": value for key, value in differences.items()}, path)
    merged = weights_of(load_parts(checkpoint, lora=path, lora_scale=0.5).unet)
    names = ("conv_in.bias", "conv_norm_out.weight", "mid_block.resnets.0.conv1.bias")
    for name, difference in zip(names, differences.values(), strict=True):
        torch.testing.assert_close(merged.pop(name), plain.pop(name) + 0.5 * difference.double(), atol=1e-6, rtol=1e-6)
    assert all(torch.equal(merged[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    ("key", "what"), [("conv_in.diff_b", "bias of lora_unet_conv_in, which is"), ("conv_in.diff", "weight")]
)
def test_differences_of_another_shape_are_refused(checkpoint, tmp_path, key, what):
    path = tiny.lora(checkpoint, tmp_path / "lora.safetensors")
    save_file(load_file(path) | {f"lora_unet_{key}": torch.zeros(3)}, path)
    with pytest.raises(InvalidArgument, match=rf"\(3,\) for the {what}"):
        load_parts(checkpoint, lora=path)


@pytest.mark.parametrize("style", ["diffusers", "diffusers-old"])
def test_names_of_diffusers_mean_the_same_with_alpha_equal_to_the_rank(checkpoint, tmp_path, style):
    kohya = tiny.lora(checkpoint, tmp_path / "a.safetensors", rank=2, alpha=2.0)
    other = tiny.lora(checkpoint, tmp_path / "b.safetensors", rank=2, style=style)
    one, two = (weights_of(load_parts(checkpoint, lora=lora).unet) for lora in (kohya, other))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_alpha_of_the_metadata_counts(checkpoint, tmp_path):
    path = tiny.lora(checkpoint, tmp_path / "a.safetensors", rank=2, style="diffusers")
    kohya = tiny.lora(checkpoint, tmp_path / "k.safetensors", rank=2, alpha=6.0)
    save_file(load_file(path), path, {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 6})})
    one, two = (weights_of(load_parts(checkpoint, lora=lora).unet) for lora in (path, kohya))
    assert all(torch.equal(one[name], two[name]) for name in one)
    save_file(load_file(path), path, {"lora_adapter_metadata": json.dumps({"unet.use_dora": True})})
    with pytest.raises(InvalidArgument, match="use_dora"):
        load_parts(checkpoint, lora=path)


def test_each_network_has_the_alpha_of_its_metadata(sdxl, tmp_path):
    layers = {"unet": "mid_block.attentions.0.proj_in", "text_encoder": "text_model.encoder.layers.0.mlp.fc1"}
    before = load_parts(sdxl)
    weights, metadata = {}, {"unet.lora_alpha": 6, "text_encoder.lora_alpha": 1, "text_encoder.use_rslora": True}
    for name, layer in layers.items():
        rows, columns = getattr(before, name).get_submodule(layer.removeprefix("text_model.")).weight.shape
        weights |= {f"{name}.{layer}.lora_A.weight": torch.ones(4, columns) / 4}
        weights |= {f"{name}.{layer}.lora_B.weight": torch.ones(rows, 4)}
    save_file(weights, tmp_path / "lora.safetensors", {"lora_adapter_metadata": json.dumps(metadata)})
    after = load_parts(sdxl, lora=tmp_path / "lora.safetensors")
    for (name, layer), expected in zip(layers.items(), (6 / 4, 1 / 2), strict=True):
        one, two = (getattr(p, name).get_submodule(layer.removeprefix("text_model.")).weight for p in (before, after))
        torch.testing.assert_close(two - one, torch.full_like(one, expected))


PEFT = {
    "alpha": {"lora_alpha": 32},
    "rank-stabilised": {"lora_alpha": 32, "use_rslora": True},
    "alpha_pattern": {"lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 2, "to_q": 16, "down_blocks.*.to_k": 1}},
    "rank_pattern": {"lora_alpha": 6, "rank_pattern": {"attn2.to_k": 2}, "use_rslora": True},
}


@pytest.mark.parametrize("case", PEFT)
def test_an_adapter_of_peft_is_as_strong_as_peft_makes_it(checkpoint, tmp_path, case):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["to_q", "to_k", "conv1"], **PEFT[case])
    model = peft.get_peft_model(tiny.load_unet(checkpoint), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    model.save_pretrained(tmp_path)
    expected = weights_of(model.merge_and_unload())
    for given in (tmp_path, tmp_path / "adapter_model.safetensors"):
        found = weights_of(load_parts(checkpoint, lora=given).unet)
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize(
    "options",
    [{"use_dora": True}, {"peft_type": "LOHA"}, {"init_lora_weights": "pissa_niter_4"}, {"lora_bias": True}],
    ids=str,
)
def test_what_is_no_plain_lora_is_refused_by_name(checkpoint, tmp_path, options):
    weights = load_file(tiny.lora(checkpoint, tmp_path / "l.safetensors", style="diffusers", convolutions=False))
    file = tmp_path / "adapter_model.safetensors"
    save_file({name.replace("unet.", "base_model.model."): w for name, w in weights.items()}, file)
    with pytest.raises(InvalidArgument, match=r"adapter_config\.json, which tells its strength"):
        load_parts(checkpoint, lora=file)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2} | options))
    with pytest.raises(InvalidArgument, match=f"{next(iter(options))}.*not merged here"):
        load_parts(checkpoint, lora=file)


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ("hada_w1_a", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("lora_mid.weight", "Tucker"),
        ("oft_blocks", "OFT"),
        ("a1.weight", "GLoRA"),
        ("on_input", "IA3"),
        ("scalar", "LyCORIS"),
        ("lora_B.bias", "biases"),
    ],
)
def test_adapters_of_other_kinds_are_named(checkpoint, tmp_path, ending, kind):
    file = tiny.lora(checkpoint, tmp_path / "lora.safetensors")
    save_file(load_file(file) | {f"lora_unet_conv_in.{ending}": torch.ones(1)}, file)
    with pytest.raises(InvalidArgument, match=rf"is of the kind .*{kind}.*lora_unet_conv_in\.{ending}.*Give a plain"):
        load_parts(checkpoint, lora=file)


def test_a_layer_that_a_lora_has_under_two_names_is_refused(checkpoint, tmp_path):
    kohya, theirs = (
        load_file(tiny.lora(checkpoint, tmp_path / f"{style}.safetensors", style=style, convolutions=False))
        for style in ("kohya", "diffusers")
    )
    save_file(kohya | theirs, tmp_path / "both.safetensors")
    with pytest.raises(InvalidArgument, match="some layer twice, under two names"):
        load_parts(checkpoint, lora=tmp_path / "both.safetensors")


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16], ids=str)
def test_a_lora_of_few_bits_is_as_strong_as_its_numbers(checkpoint, tmp_path, kind):
    file = tiny.lora(checkpoint, tmp_path / "lora.safetensors", rank=2, alpha=2.0)
    few = {name: one.to(kind) for name, one in load_file(file).items()}
    save_file(few, tmp_path / "few.safetensors")
    save_file({name: one.float() for name, one in few.items()}, file)
    one, other = (weights_of(load_parts(checkpoint, lora=path).unet) for path in (file, tmp_path / "few.safetensors"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["lora_unet_conv_in.dora_scale", "unet.conv_in.lora_magnitude_vector"])
def test_doras_are_known_by_their_tensors(checkpoint, tmp_path, name):
    file = tiny.lora(checkpoint, tmp_path / "lora.safetensors")
    save_file(load_file(file) | {name: torch.ones(8)}, file)
    with pytest.raises(InvalidArgument, match="is a DoRA"):
        load_parts(checkpoint, lora=file)


@pytest.mark.parametrize("base", ["checkpoint", "sdxl"])
def test_names_of_stability_are_what_diffusers_converts(base, request):
    """diffusers' converter of single files is the judge of the name of every layer."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet = tiny.load_unet(request.getfixturevalue(base))
    theirs = {}
    for name, tensor in unet.named_parameters():
        layer, _, kind = name.rpartition(".")
        places = [place for place in ("1", "2") if "upsampler" in stability_name(layer, 1)] or ["0"]
        attention = hasattr(unet.up_blocks[0], "attentions")
        place = "2" if attention and "2" in places else places[0]
        theirs["model.diffusion_model." + stability_name(layer, 1).replace("upsampler", place) + "." + kind] = tensor
    back = convert_ldm_unet_checkpoint(theirs, dict(unet.config))
    assert set(back) == set(unet.state_dict())
    assert all(torch.equal(back[name], tensor) for name, tensor in unet.named_parameters())


def test_names_of_stability_merge_alike(sdxl, tmp_path):
    ours = tiny.lora(sdxl, tmp_path / "ours.safetensors")
    names = {"lora_unet_" + n.replace(".", "_"): n for n, _ in tiny.load_unet(sdxl).named_modules()}
    renamed = {}
    for key, tensor in load_file(ours).items():
        layer, _, rest = key.partition(".")
        renamed["lora_unet_" + stability_name(names[layer], 1).replace(".", "_") + "." + rest] = tensor
    assert any("input_blocks" in key for key in renamed)
    save_file(renamed, tmp_path / "theirs.safetensors")
    one, two = (weights_of(load_parts(sdxl, lora=tmp_path / f"{n}.safetensors").unet) for n in ("ours", "theirs"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_text_encoders_are_merged_too(sdxl, tmp_path):
    save_file(
        {
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(1, 16),
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(32, 1),
            "text_encoder_2.text_model.encoder.layers.1.self_attn.q_proj.lora_A.weight": torch.ones(2, 24),
            "text_encoder_2.text_model.encoder.layers.1.self_attn.q_proj.lora_B.weight": torch.ones(24, 2),
        },
        tmp_path / "lora.safetensors",
    )
    before, after = load_parts(sdxl), load_parts(sdxl, lora=tmp_path / "lora.safetensors", lora_scale=0.25)
    expected = {"mlp.fc1.weight": 0.25, "self_attn.q_proj.weight": 0.5}
    for one, two in ((before.text_encoder, after.text_encoder), (before.text_encoder_2, after.text_encoder_2)):
        new = dict(two.named_parameters())
        moved = {name: (new[name] - w).mean().item() for name, w in one.named_parameters() if not new[name].equal(w)}
        assert len(moved) == 1
        (name,) = moved
        assert moved[name] == pytest.approx(expected[".".join(name.split(".")[-3:])], abs=1e-6)


def test_unmatched_names_are_listed_and_nothing_is_merged(checkpoint, sdxl, tmp_path):
    lora = tiny.lora(sdxl, tmp_path / "xl.safetensors")
    with pytest.raises(
        InvalidArgument, match=r"tensors \(lora_unet_.*fit no layer of unet, text_encoder.*for this base"
    ):
        load_parts(checkpoint, lora=lora)
    save_file({"something": torch.ones(2)}, tmp_path / "no.safetensors")
    with pytest.raises(InvalidArgument, match="something"):
        load_parts(checkpoint, lora=tmp_path / "no.safetensors")


def test_wrong_shapes_and_missing_halves_are_refused(checkpoint, tmp_path):
    path = tmp_path / "lora.safetensors"
    tensors = load_file(tiny.lora(checkpoint, path, convolutions=False))
    key = next(key for key in tensors if key.endswith("to_q.lora_down.weight"))
    save_file(tensors | {key: torch.ones(2, 5)}, path)
    with pytest.raises(InvalidArgument, match=r"\(2, 5\).*whose weight is \(16, 16\)"):
        load_parts(checkpoint, lora=path)
    save_file({k: v for k, v in tensors.items() if k != key}, path)
    with pytest.raises(InvalidArgument, match="Expected both down and up"):
        load_parts(checkpoint, lora=path)
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        load_parts(checkpoint, lora=path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lora_alpha": "x"}, "'x' for lora_alpha"),
        ({"lora_alpha": None}, "None for lora_alpha"),
        ({"alpha_pattern": {"to_q": ""}}, "'' for to_q"),
        ({"alpha_pattern": [1]}, "no mapping"),
        ({"alpha_pattern": {"(": 1}}, "which is none"),
        ({"alpha_pattern": {"(a+)+b": 1}}, "too many repeats"),
        ({"alpha_pattern": {".*" * 9: 1}}, "too many repeats"),
        ("vector", "is no number"),
        ("whole", "torch.int32"),
        ("nan", "nan or inf"),
        ("rank", "whose weight is"),
        ("point", "whose weight is"),
    ],
    ids=str,
)
def test_damaged_loras_are_refused_in_words(tmp_path, change, says):
    tensors = {"lora_A.weight": torch.ones(2, 6), "lora_B.weight": torch.ones(4, 2)}
    if change in ("whole", "nan"):
        tensors["lora_A.weight"] = (
            tensors["lora_A.weight"].to(torch.int32) if change == "whole" else tensors["lora_A.weight"] * torch.nan
        )
    if change == "rank":
        tensors = {"lora_A.weight": torch.ones(0, 6), "lora_B.weight": torch.ones(4, 0)}
    if change == "point":
        tensors["lora_A.weight"] = torch.tensor(1.0)
    if change == "vector":
        tensors["alpha"] = torch.ones(3)
    save_file({f"base_model.model.to_q.{name}": one for name, one in tensors.items()}, tmp_path / "a.safetensors")
    config = {"peft_type": "LORA", "lora_alpha": 4} | (change if isinstance(change, dict) else {})
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    network = nn.ModuleDict({"to_q": nn.Linear(6, 4)})
    before = network["to_q"].weight.clone()
    with pytest.raises(InvalidArgument, match=says):
        merge_lora({"transformer": network}, Weights([tmp_path / "a.safetensors"]))
    assert torch.equal(network["to_q"].weight, before)


def test_merging_in_half_precision_sums_in_float32(checkpoint, tmp_path):
    lora = tiny.lora(checkpoint, tmp_path / "lora.safetensors", rank=2, alpha=1.0)
    half = load_parts(checkpoint, lora=lora, dtype="bfloat16").unet
    for name, weight in expected_weights(checkpoint, lora, 0.5).items():
        found = dict(half.named_parameters())[name]
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), weight, atol=2**-8 * 0.5, rtol=2**-7, msg=name)


def test_delta_weights_are_added(checkpoint, tmp_path):
    delta = tiny.delta(checkpoint, tmp_path / "diffusion_pytorch_model.v0-1.safetensors")
    before, change = weights_of(tiny.load_unet(checkpoint)), load_file(delta)
    for given in ({"delta": delta}, {"delta": tmp_path}, {"delta": str(tmp_path), "variant": "v0-1"}):
        after = weights_of(load_parts(checkpoint, **given).unet)
        for name in before:
            torch.testing.assert_close(after[name], before[name] + change[name].double(), atol=1e-6, rtol=1e-6)


def test_the_difference_of_two_denoisers_is_added(checkpoint, tmp_path):
    """A style: UNet += styled - original, as 2-rectified flow is used with a fine-tuned model."""
    styled = tiny.sd15(tmp_path / "styled", seed=8)
    original = tiny.sd15(tmp_path / "original", seed=9)
    a, b, c = (weights_of(tiny.load_unet(folder)) for folder in (checkpoint, styled, original))
    found = weights_of(load_parts(checkpoint, delta=(styled, original / "unet")).unet)
    for name in a:
        torch.testing.assert_close(found[name], a[name] + b[name] - c[name], atol=1e-6, rtol=1e-6)


def test_delta_weights_of_another_base_are_refused(checkpoint, sdxl, tmp_path):
    with pytest.raises(InvalidArgument, match="not weights of the network"):
        load_parts(checkpoint, delta=tiny.delta(sdxl, tmp_path / "a.safetensors"))
    path = tiny.delta(checkpoint, tmp_path / "b.safetensors")
    save_file(load_file(path) | {"conv_in.weight": torch.ones(8, 9, 3, 3)}, path)
    with pytest.raises(InvalidArgument, match=r"conv_in.weight .* shape \(8, 9, 3, 3\).* \(8, 4, 3, 3\)"):
        load_parts(checkpoint, delta=path)
    with pytest.raises(InvalidArgument, match="pair"):
        load_parts(checkpoint, delta=(path,))
