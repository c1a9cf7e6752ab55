"""Text conditioning of every base against diffusers' own pipelines, exactly; then the samplers that use it."""

import pytest
import torch

import guideflow as gf
import tiny
from guideflow.errors import InvalidArgument
from guideflow_diffusers.decoding import decode_latents
from guideflow_diffusers.latent import LatentSampler, guidance_embedding
from guideflow_diffusers.parts import load_parts
from guideflow_diffusers.perflow import perflow_schedule

PROMPTS = ["a cat", "two dogs in a box"]


@pytest.fixture(scope="module", params=["sd15", "sd21", "sdxl"])
def checkpoint(request, tmp_path_factory):
    return getattr(tiny, request.param)(tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return tiny.sdxl(tmp_path_factory.mktemp("only-sdxl"))


def pipeline_of(checkpoint):
    import diffusers

    kind = "XL" if (checkpoint / "text_encoder_2").is_dir() else ""
    return getattr(diffusers, f"StableDiffusion{kind}Pipeline").from_pretrained(checkpoint).to(torch.float64)


def exact_parts(checkpoint):
    return load_parts(checkpoint, dtype="float64")


def pipeline_condition(pipeline, prompts, negative, guided):
    with torch.no_grad():
        if hasattr(pipeline, "text_encoder_2"):
            return pipeline.encode_prompt(
                prompts, device="cpu", do_classifier_free_guidance=guided, negative_prompt=negative
            )
        return (*pipeline.encode_prompt(prompts, "cpu", 1, guided, negative), None, None)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("negative", [None, ["bad", "blurry"], ["", ""]])
def test_condition_equals_encode_prompt(checkpoint, guided, negative):
    sampler = LatentSampler(exact_parts(checkpoint), perflow_schedule(), guidance_scale=3.0 if guided else 1.0)
    found = sampler.condition(PROMPTS, negative if guided else None)
    text, without, pooled, pooled_without = pipeline_condition(pipeline_of(checkpoint), PROMPTS, negative, guided)
    pairs = [(found.text, text), (found.pooled, pooled)]
    pairs += [(found.negative, without), (found.negative_pooled, pooled_without)] if guided else []
    for mine, theirs in pairs:
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)
    if not guided:
        assert found.negative is None and found.negative_pooled is None


@pytest.mark.parametrize("force_zeros", [False, True])
def test_empty_negative_is_zeros_only_where_the_checkpoint_says_so(tmp_path, force_zeros):
    folder = tiny.sdxl(tmp_path, force_zeros=force_zeros)
    sampler = LatentSampler(load_parts(folder), perflow_schedule(), guidance_scale=2.0)
    none, empty = sampler.condition(["a"]), sampler.condition(["a"], [""])
    assert bool((none.negative == 0).all()) == bool((none.negative_pooled == 0).all()) == force_zeros
    assert (empty.negative != 0).any()
    assert torch.equal(none.negative, empty.negative) != force_zeros


@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
def test_prediction_equals_the_pipeline(checkpoint, guidance_scale):
    """What the pipeline's UNet is asked at its first step, time ids included, at a size that is not square."""
    pipeline = pipeline_of(checkpoint)
    seen = []
    pipeline.unet.register_forward_hook(lambda module, args, kw, out: seen.append((args, out[0])), with_kwargs=True)
    z = torch.randn(2, 4, 16, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    more = {"negative_prompt": ["bad", "ugly"]} if guidance_scale > 1 else {}
    pipeline(
        PROMPTS, latents=z, num_inference_steps=1, guidance_scale=guidance_scale, output_type="latent", height=32,
        width=16, **more,
    )  # fmt: skip
    (_, t), output = seen[0]
    if guidance_scale > 1:
        without, with_text = output.chunk(2)
        output = without + guidance_scale * (with_text - without)
    sampler = LatentSampler(
        exact_parts(checkpoint), perflow_schedule(), guidance_scale=guidance_scale, image_size=(32, 16)
    )
    found = sampler.predict(
        z, sampler.schedule[0]._replace(time=float(t)), sampler.condition(PROMPTS, more.get("negative_prompt"))
    )
    torch.testing.assert_close(found, output, atol=1e-12, rtol=1e-12)


def test_a_wrong_time_id_or_pooled_text_would_be_seen(sdxl):
    sampler = LatentSampler(load_parts(sdxl), perflow_schedule())
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    condition = sampler.condition(["a cat"])
    right = sampler.predict(z, sampler.schedule[0]._replace(time=500.0), condition)
    sampler.image_size = (16, 18)
    assert (sampler.predict(z, sampler.schedule[0]._replace(time=500.0), condition) - right).abs().max() > 1e-4


def test_each_different_prompt_is_encoded_once_and_shared(checkpoint, monkeypatch):
    parts = exact_parts(checkpoint)
    sampler = LatentSampler(parts, perflow_schedule(), guidance_scale=2.0)
    sizes = []
    parts.text_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(args[0] if args else kwargs["input_ids"])), with_kwargs=True
    )
    shared = sampler.condition(["a"] * 3, ["bad"] * 3)
    mixed = sampler.condition(["a", "b", "a"], ["bad", "bad", "worse"])
    assert sizes == [1, 1, 2, 2]
    assert shared.text.stride(0) == 0 and shared.text.shape == mixed.text.shape
    assert torch.equal(mixed.text[0], mixed.text[2]) and not torch.equal(mixed.text[0], mixed.text[1])
    torch.testing.assert_close(mixed.text[0], shared.text[0], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(mixed.negative[1], shared.negative[1], atol=1e-12, rtol=1e-12)
    sizes.clear()
    gf.solve(sampler, lambda x: x.mean((1, 2, 3)), prompt="a", negative_prompt="b", seed=[0, 1], max_iterations=2)
    assert sizes == [1, 1]


def test_images_of_a_batch_do_not_touch_each_other(checkpoint):
    sampler = LatentSampler(exact_parts(checkpoint), perflow_schedule(), guidance_scale=2.0)
    options = {"max_iterations": 2, "solver": "anchored"}

    def loss(x):
        return x.square().mean((1, 2, 3))

    batch = gf.solve(sampler, loss, prompt=["a", "b"], negative_prompt=["c", "d"], seed=[3, 4], **options)
    single = gf.solve(sampler, loss, prompt="b", negative_prompt="d", seed=4, **options)
    torch.testing.assert_close(batch.images[1:], single.images, atol=1e-10, rtol=1e-10)


def test_negative_prompts_without_guidance_warn_and_wrong_counts_are_refused(checkpoint):
    off = LatentSampler(load_parts(checkpoint), perflow_schedule(), guidance_scale=1.0)
    with pytest.warns(UserWarning, match=r"no effect at guidance_scale = 1.0: use guidance_scale above 1"):
        off.condition(["a"], ["bad"])
    off.condition(["a"], [""])
    on = LatentSampler(off.parts, perflow_schedule(), guidance_scale=1.01)
    with pytest.raises(InvalidArgument, match="1 negative prompts for 2 prompts"):
        on.condition(["a", "b"], ["bad"])


def test_a_prompt_that_is_cut_short_warns(checkpoint):
    sampler = LatentSampler(load_parts(checkpoint), perflow_schedule())
    sampler.condition(["abcdefghijklmnopqr"])
    with pytest.warns(UserWarning, match=r"20 tokens and the text encoder reads 18: 'st'"):
        sampler.condition(["abcdefghijklmnopqrst"])


def test_conforms(checkpoint):
    from guideflow.testing import check_sampler

    sampler = LatentSampler(load_parts(checkpoint), perflow_schedule(), guidance_scale=2.0)
    check_sampler(lambda: sampler, prompts=("a", "b", "c"))


def test_half_precision_keeps_states_and_autoencoder_in_float32(sdxl):
    full, half = (LatentSampler(load_parts(sdxl, dtype=dtype), perflow_schedule()) for dtype in ("float32", "bfloat16"))
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    a, b = (sampler.step(0, z, sampler.condition(["a"])) for sampler in (full, half))
    assert b.dtype == torch.float32 and half.parts.vae.dtype == torch.float32
    assert half.condition(["a"]).pooled.dtype == half.parts.text_encoder_2.dtype == torch.bfloat16
    assert (a - b).abs().max() < 0.05 * a.abs().max()


def test_everything_is_frozen(sdxl):
    parts = load_parts(sdxl)
    for network in (parts.unet, parts.vae, parts.text_encoder, parts.text_encoder_2):
        assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_guidance_as_an_embedding(tmp_path):
    """A full LCM UNet is asked once, with guidance_scale - 1, as diffusers' LCM pipeline asks it."""
    from diffusers import LatentConsistencyModelPipeline

    base = tiny.sd15(tmp_path / "base")
    parts = load_parts(tiny.lcm_unet(tmp_path / "lcm"), base=base)
    one, two = (LatentSampler(parts, perflow_schedule(), guidance_scale=scale) for scale in (1.5, 8.5))
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, torch.tensor([7.5]), 8)
    torch.testing.assert_close(guidance_embedding(7.5, 8), theirs, atol=1e-4, rtol=0)  # sin of 7500 in float32
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    condition = two.condition(PROMPTS)
    assert condition.negative is None and not two.guided
    found = two.predict(z, two.schedule[0]._replace(time=499.0), condition)
    expected = parts.unet(z, 499, condition.text, timestep_cond=theirs.expand(2, -1)).sample
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (one.predict(z, one.schedule[0]._replace(time=499.0), condition) - found).abs().max() > 1e-3
    with pytest.warns(UserWarning, match="without a guidance embedding"):
        two.condition(["a"], ["bad"])


class Identity:
    """An autoencoder that decodes to its input."""

    dtype = torch.float32

    def __init__(self, **config):
        from diffusers.configuration_utils import FrozenDict

        self.config = FrozenDict(config)

    def decode(self, z):
        from types import SimpleNamespace

        return SimpleNamespace(sample=z)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"scaling_factor": 0.5}, [0.2, 0.4]),
        ({"scaling_factor": 0.5, "shift_factor": 0.1}, [0.3, 0.5]),
        ({"scaling_factor": 0.5, "latents_mean": [0.1, 0.2], "latents_std": [2.0, 1.0]}, [0.5, 0.6]),
    ],
)
def test_latents_are_unscaled_as_the_autoencoder_says(config, expected):
    z = torch.tensor([0.1, 0.2]).view(1, 2, 1, 1)
    image = decode_latents(Identity(**config), z)
    assert image.flatten().tolist() == pytest.approx([value / 2 + 0.5 for value in expected])
