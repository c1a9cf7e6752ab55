"""PeRFlow's table against its definition, and the diffusers backbone against an independent loop."""

import itertools
import math

import pytest
import torch

import guideflow as gf
from guideflow.errors import InvalidArgument
from guideflow_diffusers.noise import alpha_bar
from guideflow_diffusers.parts import LatentSampler, Parts, load_parts
from guideflow_diffusers.perflow import perflow_schedule


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny random model, written to disk as `pipeline.save_pretrained` lays it out."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=[8, 16],
        layers_per_block=1,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=[8, 8],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        norm_num_groups=4,
        sample_size=16,
    ).save_pretrained(folder / "vae")
    letters = [chr(c) for c in range(97, 123)]
    tokens = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=12)
    tokenizer.save_pretrained(folder / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    return folder


def literal_step(z, epsilon, now, following, start, end):
    """The definition, in plain float64: lambda_t and eta_t of the window, then a straight line."""
    table = alpha_bar()

    def at(t):
        return table[max(t - 1, 0)]

    gamma = math.sqrt(at(start) / at(end))
    lam, eta = 1 / gamma, -math.sqrt(1 - gamma**2) / gamma
    t_c, t_s, t_e = now / 1000, start / 1000, end / 1000
    lam_t = lam * (t_e - t_s) / (lam * (t_c - t_s) + (t_e - t_c))
    eta_t = eta * (t_e - t_c) / (lam * (t_c - t_s) + (t_e - t_c))
    z_end = lam_t * z + eta_t * epsilon
    return z + (following - now) / (end - now) * (z_end - z)


def test_table_of_four_steps_is_the_published_one():
    schedule = perflow_schedule(4)
    assert schedule.times == (1000, 750, 500, 250)
    assert schedule.state == pytest.approx((3.48579, 2.21445, 1.55965, 1.21625), abs=6e-6)
    assert schedule.output == pytest.approx((-3.33927, -1.97580, -1.19687, -0.69230), abs=6e-6)
    assert schedule.control == pytest.approx((0.95797, 0.89223, 0.76740, 0.56920), abs=6e-6)


@pytest.mark.parametrize(
    ("num_steps", "times"),
    [
        (5, (1000, 875, 750, 500, 250)),
        (6, (1000, 875, 750, 625, 500, 250)),
        (8, (1000, 875, 750, 625, 500, 375, 250, 125)),
    ],
)
def test_time_grid(num_steps, times):
    assert perflow_schedule(num_steps).times == times


def test_official_control_is_the_first_window_everywhere():
    """The published script looks the window up wrongly; the constant is kept for reproduction only."""
    official, own = perflow_schedule(4, control="official"), perflow_schedule(4)
    assert set(official.control) == {0.95796674}
    assert official.control[0] == pytest.approx(own.control[0], abs=1e-7)
    assert perflow_schedule(4, control="unit").control == (1, 1, 1, 1)


@pytest.mark.parametrize("num_steps", [4, 5, 6, 8])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_chain_equals_a_literal_evaluation(checkpoint, num_steps, guidance_scale):
    parts = load_parts(checkpoint, dtype=torch.float64)
    sampler = LatentSampler(parts, perflow_schedule(num_steps), guidance_scale=guidance_scale)
    z = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    condition = sampler.condition(["a cat", "a dog"], ["bad", "bad"])

    def text(prompts):
        ids = parts.tokenizer(
            prompts, padding="max_length", max_length=12, truncation=True, return_tensors="pt"
        ).input_ids
        return parts.text_encoder(ids).last_hidden_state

    positive, negative = text(["a cat", "a dog"]), text(["bad", "bad"])
    grid = (*sampler.schedule.times, 0)
    expected, found = z, sampler.prepare(z)
    for k, (now, following) in enumerate(itertools.pairwise(grid)):
        t = torch.tensor(now)
        epsilon = parts.unet(expected, t, positive).sample
        if guidance_scale > 1:
            without = parts.unet(expected, t, negative).sample
            epsilon = without + guidance_scale * (epsilon - without)
        start = next(s for s in (250, 500, 750, 1000) if now <= s)
        expected = literal_step(expected, epsilon, int(now), int(following), start, start - 250)
        found = sampler.step(k, found, condition)
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()  # the time embedding is float32
    image = parts.vae.decode(expected / parts.vae.config.scaling_factor).sample / 2 + 0.5
    torch.testing.assert_close(sampler.decode(found), image.clamp(0, 1), atol=1e-6, rtol=1e-5)


def test_half_precision_network_leaves_state_and_coefficients_in_float32(checkpoint):
    full = LatentSampler(load_parts(checkpoint), perflow_schedule())
    half = LatentSampler(load_parts(checkpoint, dtype=torch.bfloat16), perflow_schedule())
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    a, b = (sampler.step(0, z, sampler.condition(["a"])) for sampler in (full, half))
    assert b.dtype == torch.float32
    assert half.parts.vae.dtype == torch.float32
    assert (a - b).abs().max() < 0.05 * a.abs().max()


def test_conforms(checkpoint):
    from guideflow.testing import check_sampler

    check_sampler(lambda: LatentSampler(load_parts(checkpoint), perflow_schedule()), prompts=("a", "b", "c"))


def test_every_network_is_frozen(checkpoint):
    parts = load_parts(checkpoint)
    networks = (parts.unet, parts.vae, parts.text_encoder)
    assert not any(p.requires_grad for network in networks for p in network.parameters())
    assert not any(network.training for network in networks)


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_fewer_steps_than_windows_are_refused(num_steps):
    with pytest.raises(InvalidArgument, match="num_steps=4 or more"):
        perflow_schedule(num_steps)


@pytest.mark.parametrize("option", [{"control": "noise"}, {"prediction": "velocity"}])
def test_unknown_words_are_refused(option):
    with pytest.raises(InvalidArgument, match="Expected"):
        perflow_schedule(4, **option)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(InvalidArgument, match=r"unet, vae, tokenizer, text_encoder not found.*save_pretrained"):
        load_parts(tmp_path)


def test_image_size_must_fit_the_autoencoder(checkpoint):
    parts = load_parts(checkpoint)
    assert LatentSampler(parts, perflow_schedule(), image_size=(32, 16)).latent_shape == (4, 16, 8)
    with pytest.raises(InvalidArgument, match="multiples of 2"):
        LatentSampler(parts, perflow_schedule(), image_size=(15, 16))


def test_solve_runs_on_a_checkpoint_written_to_disk(checkpoint):
    sampler = LatentSampler(load_parts(checkpoint), perflow_schedule())
    solution = gf.solve(
        sampler, lambda image: image.square().mean((1, 2, 3)), prompt="a", seed=[0, 1], max_iterations=5
    )
    assert (solution.loss < solution.history["loss"][0]).all()
    assert isinstance(sampler.parts, Parts)
