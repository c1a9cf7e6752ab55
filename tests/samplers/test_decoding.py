"""Cheaper gradients of the decoder: what they equal, and that pictures stay the full decoder's."""

import pytest
import torch

import guideflow as gf
import tiny
from family_table import MAIN, PROMPTS
from guideflow.errors import InvalidArgument, MissingWeights
from guideflow_diffusers.decoding import (
    TiledGradient,
    TinyGradient,
    load_decoder_gradient,
    unscale_and_decode,
)


@pytest.fixture
def z(sampler):
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(2, *sampler.latent_shape, generator=generator, dtype=torch.float64)


def pattern(picture):
    return torch.randn(picture.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradient(decode, z):
    z = z.clone().requires_grad_()
    picture = decode(z)
    return picture.detach(), torch.autograd.grad((picture * pattern(picture)).sum(), z)[0]


def test_one_tile_over_everything_is_the_decoders_own_gradient(sampler, z):
    other = sampler.replace(decoder_gradient=TiledGradient(tile=8, overlap=2))
    (wanted, exact), (found, tiled) = gradient(sampler.decode, z), gradient(other.decode, z)
    assert torch.equal(found, wanted)
    torch.testing.assert_close(tiled, exact, rtol=1e-12, atol=1e-14)


def test_tiles_give_the_gradient_of_blended_tiles(sampler, z):
    how = TiledGradient(tile=5, overlap=2)
    vae, pieces = sampler.parts.vae, how.tiles(8, 2)
    assert [(start, length) for start, length, _ in pieces] == [(0, 5), (3, 5)]

    def blended(z):
        total = torch.zeros(2, 3, 16, 16, dtype=torch.float64)
        for a, m, rows in pieces:
            for b, n, columns in pieces:
                tile = unscale_and_decode(vae, z[:, :, a : a + m, b : b + n]) * (rows[:, None] * columns)
                total = total + torch.nn.functional.pad(tile, (2 * b, 16 - 2 * (b + n), 2 * a, 16 - 2 * (a + m)))
        return total

    picture, wanted = gradient(blended, z)
    torch.testing.assert_close(how.pull_back(vae, z, pattern(picture)), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("tile", "overlap", "size"), [(5, 2, 8), (40, 8, 64), (40, 8, 128), (4, 0, 9), (7, 6, 11)])
def test_tiles_cover_every_pixel_with_weight_one(tile, overlap, size):
    total = torch.zeros(2 * size, dtype=torch.float64)
    pieces = TiledGradient(tile, overlap).tiles(size, 2)
    for start, length, weight in pieces:
        assert length == tile and weight.min() >= 0
        total[2 * start : 2 * (start + length)] += weight
    torch.testing.assert_close(total, torch.ones_like(total))
    ends = [start + length for start, length, _ in pieces]
    assert pieces[0][0] == 0 and ends[-1] == size
    assert all(end - start >= overlap for end, (start, _, _) in zip(ends, pieces[1:], strict=False))


def test_a_tiny_decoder_lends_its_gradient_and_nothing_else(sampler, small, z):
    other = sampler.replace(decoder_gradient=small)
    (wanted, _), (found, lent) = gradient(sampler.decode, z), gradient(other.decode, z)
    assert torch.equal(found, wanted)
    vae = other.decoder_gradient.vae
    assert vae.dtype == torch.float64 and not any(weight.requires_grad for weight in vae.parameters())
    raw = unscale_and_decode(sampler.parts.vae, z)
    own = z.clone().requires_grad_()
    g = pattern(raw) * (raw.abs() <= 1) / 2
    (expected,) = torch.autograd.grad(unscale_and_decode(vae, own), own, g)
    torch.testing.assert_close(lent, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("how", ["full", "tiled", "tiny"])
@pytest.mark.parametrize("mode", ["windowed", "auto"])
def test_solves_report_the_full_decoders_pictures_and_losses(how, mode, sampler, small):
    other = sampler.replace(decoder_gradient=small if how == "tiny" else how)

    def grey(image):
        return (image - 0.4).square().mean((1, 2, 3))

    solution = gf.solve(other, grey, prompt=PROMPTS[0], max_iterations=1, keep="last", gradient_mode=mode)
    with torch.no_grad():
        images = sampler.decode(solution.latents)
    assert torch.equal(images, solution.images)
    torch.testing.assert_close(grey(images), solution.loss)


@pytest.mark.parametrize("name", ["perflow", "pcm", "lcm", "hyper-sd"])
def test_it_is_an_option_of_the_samplers(name, load_family, small, z):
    sampler = load_family(MAIN[name], 4, dtype="float64", decoder_gradient=str(small))
    wanted = gradient(load_family(MAIN[name], 4, dtype="float64").replace(decoder_gradient=small).decode, z)[1]
    torch.testing.assert_close(gradient(sampler.decode, z)[1], wanted, rtol=0, atol=0)
    assert load_family(MAIN[name], 4, decoder_gradient="tiled").decoder_gradient == TiledGradient()


def test_what_does_not_fit_is_refused(sampler, tmp_path, z, monkeypatch):
    with pytest.raises(InvalidArgument, match="16 latent channels"):
        sampler.replace(decoder_gradient=tiny.tiny_decoder(tmp_path / "wide", latent_channels=16))
    with pytest.raises(InvalidArgument, match="without config"):
        sampler.replace(decoder_gradient=tmp_path)
    with pytest.raises(InvalidArgument, match="no file or folder big"):
        sampler.replace(decoder_gradient="big")
    with pytest.raises(InvalidArgument, match="0 <= overlap < tile"):
        TiledGradient(tile=8, overlap=8)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingWeights, match="hf download someone/taesd"):
        sampler.replace(decoder_gradient="someone/taesd")
    larger = tiny.tiny_decoder(tmp_path / "larger", decoder_block_out_channels=(8, 8, 8), num_decoder_blocks=(1, 1, 1))
    wrong = load_decoder_gradient(larger, sampler.parts.vae)
    assert isinstance(wrong, TinyGradient)
    with pytest.raises(InvalidArgument, match="The small decoder turns"):
        gradient(sampler.replace(decoder_gradient=wrong).decode, z)
