"""Beginning at a picture with networks: what the published pipelines draw, any strength, every family."""

import importlib
import itertools

import diffusers
import pytest
import torch

import guideflow as gf
import guideflow_avatars as avatars
import guideflow_diffusers
import references
import tiny
from guideflow.errors import InvalidArgument
from guideflow.started import beginning_at
from guideflow_diffusers import from_pipeline, guide
from guideflow_diffusers.encoding import encode_latents
from guideflow_diffusers.reading import read_schedule
from pipelines import PROMPTS, distance, load

NOISE_FREE = {
    "turbo": guideflow_diffusers.turbo_schedule,
    "pcm": guideflow_diffusers.pcm_schedule,
    "rectified flow": guideflow_diffusers.rectified_flow_schedule,
    "flux": guideflow_diffusers.flux_schedule,
    "perflow": guideflow_diffusers.perflow_schedule,
    "perflow-sd21": lambda n: guideflow_diffusers.perflow_schedule(n, prediction="velocity"),
    "perflow-sdxl": lambda n: guideflow_diffusers.perflow_schedule(n, prediction="ddim_eps"),
}
STOCHASTIC = {
    "lcm": guideflow_diffusers.lcm_schedule,
    "hyper-sd": lambda n: guideflow_diffusers.hyper_sd_schedule(n, unified=True),
    "turbo ancestral": lambda n: guideflow_diffusers.turbo_schedule(n, method="ancestral"),
}


@pytest.mark.parametrize("name", NOISE_FREE | STOCHASTIC)
def test_the_path_makes_the_rows_of_the_table(name):
    schedule = (NOISE_FREE | STOCHASTIC)[name](5)
    for k, ends in enumerate(itertools.pairwise((*schedule.times, 0.0))):
        row = schedule[k]
        assert schedule.path.row(*ends) == pytest.approx((row.state, row.output, row.noise, row.gain), rel=1e-12)


@pytest.mark.parametrize("name", NOISE_FREE)
def test_a_step_in_two_parts_is_the_step_where_the_network_says_the_same(name):
    schedule = NOISE_FREE[name](4)
    for start, end in itertools.pairwise(schedule.times):
        middle = start + 0.4 * (end - start)
        (a, b, *_), (a1, b1, *_), (a2, b2, *_) = (
            schedule.path.row(*ends) for ends in ((start, end), (start, middle), (middle, end))
        )
        if "perflow" in name:  # in a window the network names one noise, so the whole line is given by its ends
            z, f = 1.3, 0.7
            assert a2 * (a1 * z + b1 * f) + b2 * f == pytest.approx(a * z + b * f, rel=1e-9)
        else:
            start, middle, end = (round(t) if schedule.path.spacing else t for t in (start, middle, end))
            (a, b, *_), (a1, b1, *_), (a2, b2, *_) = (
                schedule.path.row(*ends) for ends in ((start, end), (start, middle), (middle, end))
            )
            assert (a2 * a1, a2 * b1 + b2) == pytest.approx((a, b), rel=1e-9)


@pytest.mark.parametrize("name", NOISE_FREE | STOCHASTIC)
def test_every_strength_begins_near_it(name):
    schedule = (NOISE_FREE | STOCHASTIC)[name](4)
    for strength in (1e-6, 0.123, 0.5, 0.9999):
        left = beginning_at(schedule, strength)
        assert schedule.path.strength(left.times[0]) == pytest.approx(strength, abs=0.0205)
        assert all(a > b for a, b in itertools.pairwise(left.times))
        alpha, sigma = schedule.path.levels(left.times[0])
        assert 0 < alpha <= 1 and 0 <= sigma < 1


PUBLISHED = [
    ("sd15", "StableDiffusionImg2ImgPipeline"),
    ("sdxl", "StableDiffusionXLImg2ImgPipeline"),
    ("flux", "FluxImg2ImgPipeline"),
    ("sd3", "StableDiffusion3Img2ImgPipeline"),
    ("sd15", "StableDiffusionInpaintPipeline"),
    ("sdxl", "StableDiffusionXLInpaintPipeline"),
]


@pytest.mark.parametrize(("base", "kind"), PUBLISHED)
def test_picture_is_that_of_the_published_pipeline(tmp_path, monkeypatch, base, kind):
    pipe = load(getattr(tiny, base)(tmp_path / base), torch.float32)
    if base in ("sd15", "sdxl"):
        pipe.scheduler = diffusers.DDIMScheduler.from_config(
            pipe.scheduler.config, timestep_spacing="trailing", clip_sample=False
        )
    options = {"num_inference_steps": 4, "guidance_scale": 0.0}
    sampler = from_pipeline(pipe, **options)
    size, seeds = sampler.image_size, [0, 1]
    picture = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    more = {"image": picture.expand(2, -1, -1, -1), "strength": 0.5, "height": size[0], "width": size[1]}
    given = {}
    if "Inpaint" in kind:
        mask = torch.zeros(1, 1, *size)
        mask[..., : size[1] // 2] = 1
        given, more = {"mask": mask}, {**more, "mask_image": mask}
    strength = sampler.schedule.path.strength(sampler.schedule.times[2])  # 0.5, but for SD3's shifted grid
    started = gf.Started(sampler, picture, strength=strength, **given)
    noise = gf.draw_noise(started, seeds)
    theirs = getattr(diffusers, kind).from_pipe(pipe)
    theirs.set_progress_bar_config(disable=True)
    module = importlib.import_module(type(theirs).__module__)
    monkeypatch.setattr(module, "retrieve_latents", lambda output, **_: output.latent_dist.mode())
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: noise.initial)
    wanted = theirs(PROMPTS, output_type="pt", **options, **more).images
    problem = gf.Problem(started, lambda x: x.mean((1, 2, 3)), noise, started.condition(PROMPTS))
    found = problem.rollout(problem.z0, torch.zeros(2, *problem.z0.shape), gradients=False)
    assert distance(found.images, wanted) < 1e-4
    assert wanted.std() > 0.05


def test_schedulers_begin_where_their_steps_can():
    noise = {**references.NOISE, "timestep_spacing": "trailing"}
    table = read_schedule(diffusers.DDIMScheduler(**noise, clip_sample=False, prediction_type="v_prediction"), 4)
    left = beginning_at(table, 0.6)
    assert left.times == (599, 499, 249) and left.state[1:] == table.state[2:]
    # v of a picture x and a noise n is alpha n - sigma x, so the step from one level to another is exact.
    (alpha, sigma), (alpha_end, sigma_end) = (table.path.levels(t) for t in (599, 499))
    x, n = 0.3, -1.1
    ended = left.state[0] * (alpha * x + sigma * n) + left.output[0] * (alpha * n - sigma * x)
    assert ended == pytest.approx(alpha_end * x + sigma_end * n, rel=1e-5)
    ancestral = read_schedule(diffusers.EulerAncestralDiscreteScheduler(**noise), 4)
    assert beginning_at(ancestral, 0.5).times == (499, 249)
    with pytest.raises(InvalidArgument, match=r"Expected 0\.25, 0\.5, 0\.75, 1, or more steps"):
        beginning_at(ancestral, 0.6)
    with pytest.raises(InvalidArgument, match="Expected 1, which forgets what no mask keeps"):
        beginning_at(guideflow_diffusers.instaflow_schedule(), 0.6)


def test_guide_takes_the_names_of_pipelines(tmp_path):
    pipe = load(tiny.sd15(tmp_path / "sd15"))
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    size = (tiny.PICTURE, tiny.PICTURE)
    picture, mask = torch.rand(3, *size), torch.zeros(*size)
    mask[: size[0] // 2] = 1
    options = {"num_inference_steps": 2, "guidance_scale": 0, "max_iterations": 1, "candidates": 1}
    solution = guide(
        pipe, lambda x: x.mean((1, 2, 3)), image=picture, mask_image=mask, strength=0.5, paste_back=True, **options
    )
    assert torch.equal(solution.images[0, :, size[0] // 2 :], picture[:, size[0] // 2 :])
    with pytest.raises(InvalidArgument, match="The mask is mask_image="):
        guide(pipe, lambda x: x.mean((1, 2, 3)), image=picture, mask=mask, **options)
    with pytest.raises(InvalidArgument, match="Crop image= and mask_image= before"):
        guide(pipe, lambda x: x.mean((1, 2, 3)), image=picture, padding_mask_crop=8, **options)


def psnr(one, other):
    return -10 * torch.log10((one - other).square().mean())


def test_a_portrait_is_kept_outside_the_mask_to_the_autoencoders_rounding():
    sampler = gf.load_sampler("avatars-instaflow")
    photo = gf.images.read_image(avatars.portrait("ada"))
    mask = torch.zeros(128, 128)
    mask[:48] = 1
    loss = gf.load_loss("avatars-identity", reference=avatars.portrait("ben"))
    solution = gf.solve(sampler, loss, start=photo, mask=mask, strength=1, max_iterations=1, candidates=1)
    with torch.no_grad():
        coded = sampler.decode(sampler.encode(photo))
        blended = solution.latents.clone()
        blended[:, :, 6:] = sampler.encode(photo)[:, :, 6:]
        assert torch.equal(solution.images, sampler.decode(blended)), "of the photograph's latents not one is changed"
    assert psnr(coded, photo) > 33
    # Group norms of the decoder see the whole picture, so what is far from the mask moves a little with it.
    assert psnr(solution.images[:, :, 96:], photo[:, :, 96:]) > 25
    assert psnr(solution.images[:, :, :48], photo[:, :, :48]) < 20


def test_an_autoencoder_without_encoder_says_so(tmp_path):
    pipe = load(tiny.sd15(tmp_path / "sd15"))
    pipe.vae.encoder = None
    with pytest.raises(InvalidArgument, match="AutoencoderKL has no encoder"):
        encode_latents(pipe.vae, torch.zeros(1, 3, 16, 16))
