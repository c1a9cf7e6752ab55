"""Beginning at a picture: what it is, what the mask keeps, and that all else works as it does from noise."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import guideflow as gf
from guideflow import images
from guideflow.__main__ import main
from guideflow.errors import CannotResume, InvalidArgument, InvalidImage
from guideflow.gradients import MODES
from guideflow.paths import flow_levels
from guideflow.started import beginning_at
from guideflow.testing import check_sampler
from guideflow.toy import ToyLinear
from problems import SOLVERS, WRAPPERS, Distance, assert_same, caught, mixture, problem, run, solve, target
from test_gradient_modes import stochastic

FAMILIES = ["ddim", "ancestral", "flow"]
LEFT = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
LEFT[..., :3] = 1


def picture(count: int = 1, size: int = 6) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def begun(sampler: Any = None, **options: Any) -> gf.Started:
    return gf.Started(sampler or mixture(), picture(), **{"strength": 0.6, "mask": LEFT, **options})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_strength_of_one_is_text_to_image(family: str) -> None:
    sampler = mixture(family=family)
    plain = solve(sampler, 2, candidates=2)
    for more in ({}, {"mask": torch.ones(6, 6)}):
        assert_same(solve(sampler, 2, candidates=2, start=picture(), strength=1, **more), plain)


@pytest.mark.parametrize(("family", "strength", "times"), [("flow", 0.4321, (432.1, 1000 / 3)), ("ddim", 0.1, (99.0,))])
def test_the_first_state_is_the_picture_at_the_strengths_noise(family: str, strength: float, times: Any) -> None:
    sampler = mixture(family=family)
    started = begun(sampler, strength=strength, mask=None)
    noise = gf.draw_noise(started, [0, 1])
    alpha, sigma = sampler.levels(times[0])
    assert torch.allclose(started.prepare(noise.initial), alpha * (2 * picture() - 1) + sigma * noise.initial)
    assert started.schedule.times == pytest.approx(times)
    assert started.end_levels == pytest.approx([time / sampler.schedule.times[0] for time in (*times[1:], 0)])


def test_the_first_step_is_shortened_and_the_others_stay() -> None:
    schedule = mixture(family="flow", num_steps=4).schedule
    left = beginning_at(schedule, 0.6)
    assert (left.state, left.times) == ((1.0,) * 3, (600.0, 500.0, 250.0))
    assert left.output == pytest.approx((0.1, 0.25, 0.25))
    assert beginning_at(schedule, 0.5) == replace(
        schedule, **{name: getattr(schedule, name)[2:] for name in ("times", "state", "output", "noise", "gain")}
    )
    assert beginning_at(schedule, 1) is schedule
    assert len(beginning_at(schedule, 1e-9)) == 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("solver", (SOLVERS | WRAPPERS).values(), ids=(SOLVERS | WRAPPERS).keys())
def test_every_solver_changes_what_is_inside_and_keeps_what_is_outside(family: str, solver: Any) -> None:
    task = problem(begun(mixture(family=family)))
    last = run(task, solver, 2)[-1].rollout
    assert (last.images[..., 3:] - picture()[..., 3:]).abs().max() < 1e-15
    first = run(task, solver, 0)[0].rollout
    assert (last.loss < first.loss).all() or isinstance(solver, gf.Unanchored | gf.NoiseDescent)
    assert last.gradients is not None and not last.gradients[1:, ..., 3:].any()
    assert (last.images[..., :3] != first.images[..., :3]).any()


def test_controls_outside_the_mask_count_for_nothing() -> None:
    task = problem(begun(mixture(family="ancestral")))
    controls = torch.randn(task.num_steps, 2, 3, 6, 6, dtype=torch.float64)
    one, two = (task.rollout(task.z0, u, gradients=False).images for u in (controls, controls * LEFT))
    assert torch.equal(one, two)
    assert not torch.equal(two, task.rollout(task.z0, controls * 0, gradients=False).images)


def test_grey_changes_in_part() -> None:
    grey = torch.full((6, 6), 0.25)
    task = problem(begun(mask=grey))
    state = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    x = picture() * 2 - 1
    assert torch.allclose(task.decode(state), mixture().decode(0.25 * state + 0.75 * x))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("paste_back", [False, True])
def test_gradients_agree_with_finite_differences(mode: str, paste_back: bool) -> None:
    soft = (LEFT + LEFT.roll(1, -1)) / 2
    task = problem(begun(stochastic(num_steps=4), mask=soft, paste_back=paste_back), gradient_mode=mode)
    generator = torch.Generator().manual_seed(0)
    controls = torch.randn(task.num_steps, 2, 3, 6, 6, generator=generator, dtype=torch.float64) / 10
    states = torch.cat([task.z0[None], controls])
    found = task.rollout(task.z0, controls).gradients
    assert found is not None
    for k in range(len(states)):
        direction = torch.randn(task.z0.shape, generator=generator, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            moved = states.clone()
            moved[k] += sign * 1e-5 * direction
            ends.append(task.loss_scale * task.rollout(moved[0], moved[1:], gradients=False).loss)
        slope = (ends[0] - ends[1]) / 2e-5
        assert torch.allclose(slope, (found[k] * direction).flatten(1).sum(1), rtol=1e-6, atol=1e-8)


def test_each_image_has_its_own_picture_and_mask() -> None:
    sampler, masks = mixture(), torch.cat([LEFT, 1 - LEFT])
    options: dict[str, Any] = {"max_iterations": 2, "strength": 0.7}
    loss = Distance(target(sampler))
    both = gf.solve(sampler, loss, start=picture(2), mask=masks, **options)  # one seed and prompt serve all
    assert both.seeds == (0, 0)
    for i in range(2):
        alone = gf.solve(sampler, loss, start=picture(2)[i], mask=masks[i], **options)
        assert torch.allclose(alone.images, both.images[i : i + 1], atol=1e-12)
    kept = both.images * (1 - masks) - picture(2) * (1 - masks)
    assert kept.abs().max() < 1e-15


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_run_goes_on_bit_for_bit(tmp_path: Any, family: str) -> None:
    sampler = mixture(family=family, num_steps=2)
    options: dict[str, Any] = {"start": picture(2), "mask": LEFT, "paste_back": True, "strength": 0.77, "candidates": 3}
    whole = solve(sampler, 4, solver="auto", **options)
    begun = solve(sampler, 2, solver=gf.Auto(iterations=4), save_to=tmp_path, **options)
    assert_same(gf.resume(begun, max_iterations=4), whole)
    loaded = gf.Solution.load(tmp_path)
    assert loaded.edit is not None and begun.edit is not None
    assert torch.equal(loaded.edit.picture, picture(2)) and torch.equal(loaded.edit.mask, LEFT)
    assert (loaded.edit.strength, loaded.edit.paste_back) == (0.77, True)
    loss = begun.problem.loss if begun.problem else None
    assert_same(gf.resume(tmp_path, max_iterations=4, sampler=sampler, loss=loss), whole)
    kept = whole.images[..., 3:]
    assert torch.equal(kept, picture(2)[..., 3:])


def test_a_damaged_mask_is_told(tmp_path: Any) -> None:
    solution = solve(mixture(), 1, start=picture(2), mask=LEFT)
    assert solution.edit is not None
    broken = replace(solution, edit=replace(solution.edit, mask=LEFT[..., :4]))
    broken.save(tmp_path)
    with pytest.raises(CannotResume, match="its mask do not fit"):
        gf.Solution.load(tmp_path)


@pytest.mark.parametrize("options", [{}, {"mask": None}, {"paste_back": True}])
def test_conformance(options: Any) -> None:
    check_sampler(lambda: begun(stochastic(), **options), expected_failures={"affine": "it does not begin at noise"})


def test_the_command_line_fits_saves_and_resumes(tmp_path: Any, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    images.save_image("photo.png", torch.rand(3, 32, 48, generator=generator))
    mask = Image.new("L", (48, 32))
    mask.paste(255, (0, 0, 24, 32))
    mask.save("mask.png")
    (tmp_path / "bright.py").write_text("def Bright(image):\n    return 1 - image.flatten(1).mean(1)\n")
    command = ["run", "--sampler", "toy-mixture", "--loss", "bright.py:Bright", "--start", "photo.png"]
    assert main([*command]) == 2
    assert "48x32 pixels" in capsys.readouterr().err
    command += ["--mask", "mask.png", "--fit", "crop", "--paste-back", "--strength", "0.8"]
    command += ["--seed", "0", "--seed", "1"]
    assert main([*command, "--iterations", "2"]) == 0
    guided = images.read_image("out/guided-00.png")
    assert torch.equal(guided[..., 18:], images.read_image("photo.png")[..., 26:40])
    assert main(["run", "--resume", "--loss", "bright.py:Bright", "--iterations", "4"]) == 0
    assert main([*command, "--iterations", "4", "--out", "whole"]) == 0
    for name in ("guided-00.png", "guided-01.png"):
        pixels = [images.read_image(f"{folder}/{name}") for folder in ("out", "whole")]
        assert torch.equal(pixels[0][..., 18:], pixels[1][..., 18:])
    capsys.readouterr()
    small = ["--mask", "small.png", "--out", "other"]
    Image.new("L", (32, 32), 255).save("small.png")
    assert main([*command[:7], *small, "--fit", "pad"]) == 2
    assert "mask of 32x32 pixels. Expected the size of the start picture, 48x32" in capsys.readouterr().err
    assert main([*command[:5], "--fit", "pad", "--out", "other"]) == 2
    assert "--fit without --start" in capsys.readouterr().err


def test_fit_crops_to_the_middle_and_pads_with_the_edge() -> None:
    image = torch.rand(1, 3, 8, 16)
    assert torch.equal(images.fit(image, 8), image[..., 4:12])
    padded = images.fit(image, (16, 16), "pad")
    assert torch.equal(padded[:, :, 4:12], image)
    assert torch.equal(padded[:, :, :4], image[:, :, :1].expand(-1, -1, 4, -1))
    assert images.fit(torch.rand(3, 300, 200), (64, 48), "crop").shape == (1, 3, 64, 48)
    assert images.fit(torch.rand(3, 300, 200), (64, 48), "pad").shape == (1, 3, 64, 48)
    with pytest.raises(InvalidArgument, match="how='stretch'"):
        images.fit(image, 8, "stretch")


def test_larger_pictures_and_masks_are_resized() -> None:
    started = begun(sampler=mixture(), mask=None)
    large = gf.Started(mixture(), picture(size=12), mask=torch.ones(12, 12, dtype=torch.bool))
    assert large.edit.picture.shape == started.edit.picture.shape == (1, 3, 6, 6)
    assert large.edit.mask is not None and large.edit.mask.min() == 1


class NotAffine(gf.Sampler):
    condition = step = decode = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 0}, "strength=0. Expected a number above 0"),
        ({"strength": -0.5}, "strength=-0.5"),
        ({"strength": 1.01}, "at most 1"),
        ({"strength": True}, "strength=True"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"mask": torch.ones(5, 6)}, "mask of 6x5 pixels. Expected the size of the start picture, 6x6"),
        ({"mask": torch.zeros(6, 6)}, "black all over"),
        ({"mask": torch.full((6, 6), 2.0)}, r"mask in the range \[2, 2\]"),
        ({"mask": torch.ones(3, 1, 6, 6), "start": picture(2)}, "3 masks for 2 start pictures"),
        ({"paste_back": True}, "paste_back=True without a mask"),
        ({"start": torch.rand(3, 6, 9)}, "start picture of 9x6 pixels.*'crop'.*'pad'"),
        ({"start": torch.rand(3, 6, 9) * 255}, "range"),
        ({"start": "nowhere.png"}, "no file nowhere.png"),
        ({"start": []}, "no image as start"),
        ({"start": picture(3), "seed": [0, 1]}, "3 for `start`"),
        ({"start": None, "strength": 0.5}, "strength without a picture"),
        ({"start": None, "mask": LEFT, "paste_back": True}, "mask, paste_back without a picture"),
    ],
)
def test_bad_inputs(options: Any, message: str) -> None:
    with pytest.raises((InvalidArgument, InvalidImage), match=message):
        gf.solve(mixture(), Distance(target(mixture())), **{"start": picture(), **options})


def test_samplers_that_cannot_begin_at_a_picture_say_so() -> None:
    with pytest.raises(InvalidArgument, match=r"NotAffine.*Expected a `gf.AffineSampler`"):
        gf.Started(object.__new__(NotAffine), picture())  # type: ignore[abstract]
    sampler = mixture(family="flow")
    sampler.schedule = replace(sampler.schedule, path=None)
    with pytest.raises(InvalidArgument, match="does not say how noisy its states are"):
        gf.Started(sampler, picture())
    sampler.schedule = replace(sampler.schedule, path=gf.NoisePath(flow_levels))
    with pytest.raises(InvalidArgument, match=r"Expected 0\.333333, 0\.666667, 1, or more steps"):
        gf.Started(sampler, picture(), strength=0.5)
    assert gf.Started(sampler, picture(), strength=0.666667).num_steps == 2
    with pytest.raises(InvalidArgument, match="has no `encode`"):
        type("Bare", (type(sampler),), {"encode": gf.Sampler.encode})(num_steps=2, size=6, dtype="float64").encode(0)
    vector = ToyLinear(num_steps=2, size=6, dtype="float64")
    with pytest.raises(InvalidImage):
        gf.Started(vector, picture())
    with pytest.raises(InvalidArgument, match="condition without noise"):
        begun().step(0, picture(), begun().condition([""]))


def test_conformance_finds_a_path_that_is_not_the_tables() -> None:
    def make() -> gf.Sampler:
        sampler = mixture(family="flow")
        assert sampler.schedule.path is not None
        wrong = replace(sampler.schedule.path, row=lambda time, end: (1.0, (time - end) / 999, 0.0, 1.0))
        sampler.schedule = replace(sampler.schedule, path=wrong)
        return sampler

    assert caught(check_sampler, make) == {"affine"}
