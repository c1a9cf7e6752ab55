"""Pictures that only solvers see: a small decoder makes them, and nothing of it is shown or judged."""

from dataclasses import replace

import pytest
import torch

import guideflow as gf
import tiny
from family_table import MAIN, PROMPTS
from guideflow._solve.candidates import candidate_seed
from guideflow.errors import InvalidArgument, MissingWeights
from guideflow.previewing import Previewing
from guideflow.problem import draw_noise
from guideflow.solvers import Previewed
from guideflow.solvers.lookahead import clean_gradient
from guideflow_avatars.samplers import FAMILIES


def grey(image):
    return (image - 0.4).square().mean((1, 2, 3))


def latents(sampler, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(2, *sampler.latent_shape, generator=generator, dtype=torch.float64)


def test_previews_are_the_small_decoders_and_pictures_are_not(sampler, small, load_family):
    other, z = sampler.replace(preview_decoder=small), latents(sampler)
    assert torch.equal(other.decode(z), sampler.decode(z)) and torch.equal(sampler.preview(z), sampler.decode(z))
    expected = other.preview_decoder.decode(z).sample  # what is called [-1, 1] there
    torch.testing.assert_close(other.preview(z), (expected / 2 + 0.5).clamp(0, 1), rtol=0, atol=0)
    assert not torch.equal(other.preview(z), other.decode(z))
    loaded = load_family(MAIN["perflow"], 4, dtype="float64", preview_decoder=str(small))
    assert torch.equal(loaded.preview(z), other.preview(z))
    assert torch.equal(other.replace(guidance_scale=1.0).preview(z), other.preview(z))
    assert torch.equal(other.replace(preview_decoder=None).preview(z), sampler.decode(z))


def test_gradients_of_previews_are_those_of_finite_differences(sampler, small):
    other, z = sampler.replace(preview_decoder=small), latents(sampler)
    noise = draw_noise(other, [0, 1])
    problem = gf.Problem(other, grey, noise, other.condition([PROMPTS[0]] * 2), loss_scale=1.0)
    found, direction, h = clean_gradient(Previewing.of(problem), z), latents(sampler, 1), 1e-5
    change = (grey(other.preview(z + h * direction)) - grey(other.preview(z - h * direction))) / (2 * h)
    torch.testing.assert_close((found * direction).flatten(1).sum(1), change, rtol=1e-6, atol=1e-12)
    assert not torch.allclose(found, clean_gradient(problem, z))


INNER = {
    "passes": gf.solvers.Universal(clip=0.03),
    "steps that grow short": gf.Annealed(gf.FlowGrad(clip=0.03)),
    "noise": gf.NoiseDescent(),
    "polished": gf.solvers.Polished(gf.FlowGrad()),
}


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_what_previews_find_is_decoded_and_judged_in_full(sampler, small, inner):
    other, options = sampler.replace(preview_decoder=small), {"prompt": PROMPTS[0], "keep": "last", "candidates": 3}
    found = gf.solve(other, grey, solver=Previewed(inner, moves=2), max_iterations=2, **options)
    images = sampler.decode(found.latents)
    assert torch.equal(found.images, images) and torch.equal(found.start, sampler.decode(states_of_start(found)))
    torch.testing.assert_close(found.loss, grey(images))
    full = gf.solve(sampler, grey, solver=inner, max_iterations=4, **options)
    same = gf.solve(sampler, grey, solver=Previewed(inner, moves=2), max_iterations=2, **options)
    assert torch.equal(same.images, full.images), "nothing to preview by, so it is the solver itself"
    assert torch.equal(same.history["loss"], full.history["loss"][::2]) and same.stats["iterations"] == 2
    assert same.stats["network_evaluations"] == full.stats["network_evaluations"]
    assert not torch.equal(found.images, full.images), "the preview guides"


def states_of_start(solution):
    """The finished latents of the noises that were chosen."""
    problem = solution.problem
    return problem.rollout(problem.z0, lambda k, end: torch.zeros_like(end), gradients=False).states[-1]


def test_candidates_are_compared_by_previews_and_shown_in_full(sampler, small):
    other, options = sampler.replace(preview_decoder=small), {"prompt": PROMPTS[0], "seed": [3, 4], "candidates": 4}
    found = gf.solve(other, grey, solver=Previewed(gf.FlowGrad()), max_iterations=0, **options)
    seeds = [[candidate_seed(seed, number) for number in range(4)] for seed in (3, 4)]
    plain = [gf.solve(sampler, grey, prompt=PROMPTS[0], seed=some, max_iterations=0, candidates=1) for some in seeds]
    by_preview = [grey(other.preview(one.latents)) for one in plain]
    assert found.chosen.tolist() == [int(losses.argmin()) for losses in by_preview]
    for i, one in enumerate(plain):
        torch.testing.assert_close(found.start[i], one.images[found.chosen[i]])
        torch.testing.assert_close(found.unguided[i], one.images[0])
    torch.testing.assert_close(found.loss, grey(found.start))


def test_a_choice_that_is_interrupted_shows_its_best_in_full(sampler, small):
    other, seen = sampler.replace(preview_decoder=small), []

    def loss(image):
        seen.append(len(image))
        if len(seen) == 4:  # after previews of two candidates, and the picture of the first
            raise KeyboardInterrupt
        return grey(image)

    rule = Previewed(gf.FlowGrad())
    found = gf.solve(other, loss, prompt=PROMPTS[0], solver=rule, max_iterations=2, candidates=4)
    assert found.result[0] is gf.Result.INTERRUPTED and found.stats["iterations"] == 0
    assert torch.equal(found.start, sampler.decode(states_of_start(found)))
    torch.testing.assert_close(found.loss, grey(found.start))


def test_previews_are_found_batch_by_batch_and_resumed(sampler, small):
    other, rule = sampler.replace(preview_decoder=small), Previewed(gf.Annealed(gf.FlowGrad(clip=0.03)), moves=3)
    options = {"prompt": PROMPTS[0], "solver": rule, "keep": "last", "candidates": 3}
    both = gf.solve(other, grey, seed=[5, 6], max_iterations=3, **options)
    for i, seed in enumerate((5, 6)):
        alone = gf.solve(other, grey, seed=seed, max_iterations=3, **options)
        torch.testing.assert_close(both.images[i], alone.images[0], rtol=0, atol=1e-9)
    planned = replace(rule, solver=gf.Annealed(gf.FlowGrad(clip=0.03), iterations=9))
    begun = gf.solve(other, grey, seed=[5, 6], max_iterations=1, **options | {"solver": planned})
    assert torch.equal(gf.resume(begun, max_iterations=3).images, both.images)


def test_auto_previews_where_it_is_told_to_and_does_more_in_the_time(sampler):
    rule = gf.Auto(passes=True, preview=True)
    assert rule.parts(4) == Previewed(gf.solvers.Universal(8.0, repeats=2, clip=0.03, decay=0.3), moves=1)
    joint = gf.Auto(preview=True)
    assert joint.parts(4) == Previewed(gf.Auto().parts(4), moves=4) and joint.candidate_previews
    rules = rule, gf.Auto(passes=True), joint, gf.Auto()
    assert [one.default_iterations for one in rules] == [6, 3, 5, 12]
    assert (gf.Auto(iterations=30).default_iterations, gf.Auto(preview=True, iterations=30).default_iterations) == (
        30,
        8,
    )
    with pytest.raises(InvalidArgument, match="preview=True"):
        gf.solve(sampler, grey, prompt=PROMPTS[0], solver=gf.Momentum(joint), max_iterations=1)


def test_no_moves_are_refused():
    with pytest.raises(InvalidArgument, match="moves"):
        Previewed(gf.FlowGrad(), moves=0)


def test_outside_a_mask_a_preview_is_the_picture(sampler, small):
    other = sampler.replace(preview_decoder=small)
    picture = torch.rand(3, *sampler.image_size, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, *sampler.image_size)
    mask[..., : sampler.image_size[1] // 2] = 1
    started = gf.Started(other, picture, mask=mask, paste_back=True)
    z = latents(sampler)
    seen = started.preview(z)
    assert torch.equal(seen[..., sampler.image_size[1] // 2 :], started.decode(z)[..., sampler.image_size[1] // 2 :])
    assert not torch.equal(seen, started.decode(z))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_avatars_worlds_previews_are_close(name):
    sampler = gf.load_sampler(name)
    solution = gf.solve(
        sampler, grey, prompt="a person in a red shirt", seed=[0, 1, 2, 3], max_iterations=0, candidates=1
    )
    error = (sampler.preview(solution.latents) - solution.images).square().mean((1, 2, 3))
    assert (-10 * error.log10() > 22).all() and (error > 0).all()


def test_what_does_not_fit_is_refused(sampler, tmp_path, monkeypatch):
    with pytest.raises(InvalidArgument, match="16 latent channels"):
        sampler.replace(preview_decoder=tiny.tiny_decoder(tmp_path / "wide", latent_channels=16))
    with pytest.raises(InvalidArgument, match=r"preview_decoder = .*without config"):
        sampler.replace(preview_decoder=tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingWeights, match="hf download someone/taesd"):
        sampler.replace(preview_decoder="someone/taesd")
    larger = tiny.tiny_decoder(tmp_path / "larger", decoder_block_out_channels=(8, 8, 8), num_decoder_blocks=(1, 1, 1))
    with pytest.raises(InvalidArgument, match="of 32x32 pixels of latents for 16x16"):
        sampler.replace(preview_decoder=larger).preview(latents(sampler))


def test_a_pass_forgets_a_share_of_what_those_before_have_found(sampler):
    """From a state whose controls were shrunk by hand, a pass that forgets nothing goes where one goes that forgets."""
    noise = draw_noise(sampler, [0, 1])
    problem = gf.Problem(sampler, grey, noise, sampler.condition([PROMPTS[0]] * 2))
    whole, partly = gf.solvers.Universal(), gf.solvers.Universal(decay=0.3)
    first = whole.step(problem, whole.init(problem))
    assert torch.equal(first.controls, partly.step(problem, partly.init(problem)).controls), "nothing to forget"
    shrunk = whole.step(problem, replace(first, controls=(1 - 0.3) * first.controls))
    found = partly.step(problem, first)
    assert torch.equal(found.controls, shrunk.controls) and torch.equal(found.rollout.images, shrunk.rollout.images)
    assert not torch.equal(found.controls, whole.step(problem, first).controls)
    with pytest.raises(InvalidArgument, match="decay"):
        gf.solvers.Universal(decay=1.5)
