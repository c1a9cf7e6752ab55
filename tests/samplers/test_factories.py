"""Families as plugins: their options, what they load, half precision, conformance."""

import inspect
import re
from dataclasses import replace

import pytest
import torch

import guideflow as gf
import guideflow_diffusers as families
import tiny
from family_table import MAIN, draw, encode, relative, run
from guideflow.errors import InvalidArgument
from guideflow.registry import config
from guideflow.testing import check_sampler
from guideflow_diffusers import parts
from guideflow_diffusers.family import SD15, SDXL
from guideflow_diffusers.latent import LatentSampler

every_name = pytest.mark.parametrize("name", MAIN)


# Half precision


# Of the largest entry, after the last step. These networks round to about one eps; how exactly is up to the processor.
BOUNDS = {name: 4 * torch.finfo(getattr(torch, name)).eps for name in ("bfloat16", "float16")}


@every_name
@pytest.mark.parametrize("dtype", BOUNDS)
def test_half_precision_network_leaves_state_and_coefficients_in_float32(name, dtype, load_family):
    family = MAIN[name]
    num_steps = 4 if 4 in family.steps else 1
    full, half = load_family(family, num_steps, dtype="float32"), load_family(family, num_steps, dtype=dtype)
    assert half.dtype == getattr(torch, dtype)
    assert half.parts.vae.dtype == half.state_dtype == torch.float32
    noise, _ = draw(full)
    with torch.no_grad():
        states, found = run(full, noise), run(half, noise)
        assert {state.dtype for state in found} == {torch.float32}
        assert relative(found[-1], states[-1]) <= BOUNDS[dtype]
        schedule, z, condition = half.schedule, found[0], encode(half)
        output = half.predict(z, schedule[0], condition).double()
        exact = schedule.state[0] * z.double() + schedule.output[0] * output
        if noise.steps[0] is not None:
            exact = exact + schedule.noise[0] * noise.steps[0]
        assert relative(half.step(0, z, condition, noise.steps[0]), exact) <= 1e-6


# As plugins


@every_name
def test_conforms(name, load_family):
    family = MAIN[name]
    sampler = load_family(family, next((k for k in family.steps if k > 1), 1), dtype="float32")
    check_sampler(lambda: sampler, prompts=("a", "b", "c"))


@pytest.mark.parametrize("name", ["perflow", "instaflow", "sdxl-turbo", "lcm"])
def test_solve_lowers_a_loss(name, load_family):
    sampler = load_family(MAIN[name], max(MAIN[name].steps[0], 1), dtype="float32")
    solution = gf.solve(
        sampler, lambda image: image.square().mean((1, 2, 3)), prompt="a", seed=[0, 1], max_iterations=4
    )
    assert (solution.loss < solution.history["loss"][0]).all()


def test_every_family_is_registered_with_what_users_must_know():
    entries, flows = families.guideflow_samplers(), {family.base for family in families.FLOWS.values()}
    assert set(entries) == {*MAIN, *families.FLOWS}
    for entry in entries.values():
        assert entry.extra == "diffusers"
        assert entry.licence
        assert entry.base in ("SD 1.5", "SD 2.1", "SDXL", "SD 1.5 or SDXL", *flows)
        assert entry.commercial
        assert entry.steps
        assert entry.downloads
        assert entry.footprint.bytes("bfloat16")[0] < entry.footprint.bytes("float32")[0]
        assert entry.needs == ("prompt",)


# Options


@every_name
def test_options_are_those_of_the_schedule_and_of_the_loader_each_described(name):
    family = families.FAMILIES[name]
    options = inspect.signature(family).parameters
    assert {"num_steps", "checkpoint", "guidance_scale", "dtype", "decoder_gradient", "lora", "style"} <= set(options)
    assert set(inspect.signature(family.schedule).parameters) <= set(options)
    assert all(option.default is not option.empty for option in options.values())
    assert options["checkpoint"].default == family.checkpoint
    described = re.findall(r"^    (\w+): \S", inspect.getdoc(family), re.MULTILINE)
    assert described.count("num_steps") == 1 and set(described) - {"schedule"} == set(options)


def test_a_variant_of_a_family_is_a_changed_record(tiny_folders):
    mine = replace(families.PCM, checkpoint=tiny_folders["sd15"], guidance_scale=2.0, image_size=32)
    sampler = mine(num_steps=3, grid="tcd")
    assert sampler.guidance_scale == 2.0 and sampler.image_size == (32, 32)
    assert sampler.schedule == families.pcm_schedule(3, grid="tcd")
    assert mine(guidance_scale=1.0, image_size=None).image_size == (tiny.PICTURE, tiny.PICTURE)
    with pytest.raises(TypeError, match="windows"):
        mine(windows=3)
    bound = replace(mine, fixed={"guidance_scale": 3.0})
    assert "guidance_scale" not in inspect.signature(bound).parameters
    assert bound().guidance_scale == 3.0


def test_a_changed_sampler_keeps_the_rest(tiny_folders):
    sampler = gf.load_sampler("pcm", checkpoint=tiny_folders["sd15"], image_size=(32, 16), decoder_gradient="tiled")
    other = sampler.replace(guidance_scale=2.0)
    assert isinstance(other, LatentSampler) and (sampler.guidance_scale, other.guidance_scale) == (1.0, 2.0)
    for name in ("parts", "schedule", "image_size", "decoder_gradient"):
        assert getattr(other, name) == getattr(sampler, name)
    assert sampler.replace(schedule=families.turbo_schedule(2)).num_steps == 2
    assert config(sampler)["name"] == "pcm" and config(other) is None, "no options by name would make it"


# What is loaded by default


@pytest.fixture
def asked(monkeypatch):
    """What a factory asks `load_parts` for, without loading it."""

    class Asked(Exception):
        pass

    def refuse(checkpoint, **options):
        raise Asked({"checkpoint": str(checkpoint)} | {k: v for k, v in options.items() if v not in (None, 1.0)})

    def asked(name, **options):
        with pytest.raises(Asked) as caught:
            gf.load_sampler(name, **options)
        given = caught.value.args[0]
        assert (given.pop("dtype"), given.pop("device")) == (options.get("dtype", "float32"), "cpu")
        return given

    monkeypatch.setattr(parts, "load_parts", refuse)
    return asked


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("perflow", {}, {"checkpoint": "hansyan/perflow-sd15-dreamshaper"}),
        (
            "perflow",
            {"checkpoint": "x", "delta": "y", "variant": "v"},
            {"checkpoint": "x", "delta": "y", "variant": "v"},
        ),
        ("perflow-sd21", {"dtype": "bfloat16"}, {"checkpoint": "hansyan/perflow-sd21-artius"}),
        ("perflow-sdxl", {}, {"checkpoint": "hansyan/perflow-sdxl-dreamshaper", "variant": "v0-fix"}),
        ("perflow-sdxl", {"checkpoint": "mine"}, {"checkpoint": "mine"}),
        ("rectified-flow", {}, {"checkpoint": "XCLiu/2_rectified_flow_from_sd_1_5"}),
        (
            "rectified-flow",
            {"style": "Lykon/dreamshaper-7"},
            {
                "checkpoint": "XCLiu/2_rectified_flow_from_sd_1_5",
                "base": "Lykon/dreamshaper-7",
                "delta": ("Lykon/dreamshaper-7", SD15),
            },
        ),
        ("instaflow", {}, {"checkpoint": "XCLiu/instaflow_0_9B_from_sd_1_5"}),
        ("sd-turbo", {}, {"checkpoint": "stabilityai/sd-turbo"}),
        ("sdxl-turbo", {}, {"checkpoint": "stabilityai/sdxl-turbo"}),
        (
            "pcm",
            {},
            {"checkpoint": SD15, "lora": "wangfuyun/PCM_Weights:sd15/pcm_sd15_smallcfg_4step_converted.safetensors"},
        ),
        ("pcm", {"checkpoint": "mine"}, {"checkpoint": "mine"}),
        (
            "pcm",
            {"lora": "mine", "num_steps": 3, "lora_scale": 0.5},
            {"checkpoint": SD15, "lora": "mine", "lora_scale": 0.5},
        ),
        (
            "pcm-sdxl",
            {"num_steps": 2},
            {"checkpoint": SDXL, "lora": "wangfuyun/PCM_Weights:sdxl/pcm_sdxl_smallcfg_2step_converted.safetensors"},
        ),
        (
            "lcm",
            {"num_steps": 5},
            {"checkpoint": SD15, "lora": "latent-consistency/lcm-lora-sdv1-5:pytorch_lora_weights.safetensors"},
        ),
        ("lcm", {"checkpoint": "SimianLuo/LCM_Dreamshaper_v7"}, {"checkpoint": "SimianLuo/LCM_Dreamshaper_v7"}),
        (
            "sdxl-lightning",
            {},
            {"checkpoint": SDXL, "lora": "ByteDance/SDXL-Lightning:sdxl_lightning_4step_lora.safetensors"},
        ),
        (
            "sdxl-lightning",
            {"num_steps": 1},
            {"checkpoint": "ByteDance/SDXL-Lightning:sdxl_lightning_1step_unet_x0.safetensors", "base": SDXL},
        ),
        ("hyper-sd", {}, {"checkpoint": SD15, "lora": "ByteDance/Hyper-SD:Hyper-SD15-4steps-lora.safetensors"}),
        (
            "hyper-sd",
            {"checkpoint": SDXL, "unified": True, "num_steps": 3},
            {"checkpoint": SDXL, "lora": "ByteDance/Hyper-SD:Hyper-SDXL-1step-lora.safetensors"},
        ),
    ],
)
def test_what_is_loaded(name, options, expected, asked):
    assert asked(name, **options) == expected


@pytest.mark.parametrize("name", ["pcm", "hyper-sd"])
def test_a_number_of_steps_without_a_published_lora_is_refused(name):
    with pytest.raises(InvalidArgument, match=r"num_steps=3.*2, 4, 8.*lora=PATH"):
        gf.load_sampler(name, num_steps=3)


def test_options_are_checked_before_anything_is_loaded(asked):
    with pytest.raises(InvalidArgument, match="num_steps=4 or more"):
        gf.load_sampler("perflow", num_steps=2)
    with pytest.raises(InvalidArgument, match="both style and delta"):
        gf.load_sampler("perflow", style="a", delta="b")


@pytest.mark.parametrize(
    ("name", "base", "reason"),
    [
        ("perflow", "sdxl", "is SDXL, for a sampler of SD 1.5"),
        ("sdxl-turbo", "sd15", "is no SDXL, for a sampler of SDXL"),
    ],
)
def test_a_checkpoint_of_another_base_is_refused(name, base, reason, tiny_folders):
    with pytest.raises(InvalidArgument, match=reason):
        gf.load_sampler(name, checkpoint=tiny_folders[base])


@pytest.mark.parametrize(("width", "base"), [(768, "SD 1.5"), (1024, "SD 2.1"), (16, None)])
def test_a_base_is_told_by_the_width_of_its_text(width, base, tiny_folders):
    loaded = parts.load_parts(tiny_folders["sd15"])
    assert replace(loaded, unet=tiny._unet(cross_attention_dim=width)).base == base


def same_weights(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_a_style_is_merged_and_lends_its_text_encoder_and_autoencoder(tiny_folders, tmp_path):
    style = tiny.sd15(tmp_path / "style", seed=7)
    flow, original = tiny_folders["sd15"], tiny.sd15(tmp_path / "original", seed=8)
    sampler = gf.load_sampler("rectified-flow", checkpoint=flow, style=style, style_base=original)
    plain, styled = (gf.load_sampler("rectified-flow", checkpoint=folder) for folder in (flow, style))
    assert same_weights(sampler.parts.vae, styled.parts.vae)
    assert same_weights(sampler.parts.text_encoder, styled.parts.text_encoder)
    before, after, base = (tiny.load_unet(folder).state_dict() for folder in (flow, style, original))
    for name, weight in sampler.parts.unet.state_dict().items():
        torch.testing.assert_close(weight, before[name] + after[name] - base[name])
    assert not same_weights(sampler.parts.unet, plain.parts.unet)


def test_delta_weights_and_loras_change_the_denoiser(tiny_folders, tmp_path):
    folder = tiny_folders["sd15"]
    delta, lora = tiny.delta(folder, tmp_path / "delta.safetensors"), tiny.lora(folder, tmp_path / "lora.safetensors")
    plain = gf.load_sampler("pcm", checkpoint=folder)
    for name, option in (
        ("perflow", {"delta": delta}),
        *((name, {"lora": lora}) for name in ("pcm", "lcm", "hyper-sd")),
    ):
        changed = gf.load_sampler(name, checkpoint=folder, **option)
        assert not same_weights(plain.parts.unet, changed.parts.unet)
        assert same_weights(plain.parts.vae, changed.parts.vae)
    unchanged = gf.load_sampler("pcm", checkpoint=folder, lora=lora, lora_scale=0.0)
    assert same_weights(plain.parts.unet, unchanged.parts.unet)


def test_a_full_lcm_imitates_guidance_by_default_and_a_lora_does_without(tiny_folders):
    full = gf.load_sampler("lcm", checkpoint=tiny_folders["full_lcm"], base=tiny_folders["sd15"], image_size=32)
    assert full.guidance_scale == 8.5
    assert not full.guided
    assert full.image_size == (32, 32)
    assert gf.load_sampler("lcm", checkpoint=tiny_folders["sd15"]).guidance_scale == 1.0


def test_image_size_is_a_number_or_height_and_width(tiny_folders):
    for size, latent in ((None, (8, 8)), (32, (16, 16)), ((16, 32), (8, 16))):
        assert gf.load_sampler("pcm", checkpoint=tiny_folders["sd15"], image_size=size).latent_shape == (4, *latent)
    assert gf.load_sampler("sdxl-turbo", checkpoint=tiny_folders["sdxl"]).image_size == (512, 512)
