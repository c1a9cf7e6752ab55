"""The toy samplers are what they say: exact posterior means, the distribution they promise, known schedules."""

import pytest
import torch
from torch import Tensor

import guideflow as gf
from guideflow.errors import InvalidArgument
from guideflow.toy import ToyLinear, ToyMixture
from problems import linear, mixture


@pytest.mark.parametrize("family", ["ddim", "flow"])
def test_network_is_the_score_of_the_mixture(family: str) -> None:
    # E[n | z] = - sigma times the gradient of log p(z): by autograd from the density, not from the formula used.
    sampler = mixture(family=family, deviation=0.6)
    condition = sampler.condition(["", "red"])
    z = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for t in (900.0, 500.0, 100.0):
        signal, noise = sampler.levels(t)
        variance = signal**2 * 0.6**2 + noise**2
        squares = (z[:, None] - signal * sampler.means).flatten(2).square().sum(2)
        density = (condition - squares / (2 * variance)).logsumexp(1)
        noise_mean = -noise * torch.autograd.grad(density.sum(), z)[0]
        clean_mean = (z.detach() - noise * noise_mean) / signal
        expected = clean_mean - noise_mean if family == "flow" else noise_mean
        torch.testing.assert_close(
            sampler.predict(z.detach(), sampler.schedule[0]._replace(time=t), condition), expected, rtol=1e-8, atol=1e-8
        )


@pytest.mark.parametrize("family", ["ddim", "ancestral", "flow"])
def test_many_steps_sample_the_selected_component(family: str) -> None:
    sampler = mixture(family=family, num_steps=200, deviation=0.2, size=8)
    noise = gf.draw_noise(sampler, range(24))
    condition = sampler.condition(["green ring"] * 24)
    z = sampler.prepare(noise.initial)
    for k in range(200):
        z = sampler.step(k, z, condition, noise.steps[k])
    residual = z - sampler.means[sampler.names.index("green ring")]
    assert abs(residual.mean().item()) < 0.02
    assert residual.std().item() == pytest.approx(0.2, rel=0.1)


def test_prompts_select_and_exclude() -> None:
    sampler = mixture()

    def chosen(prompt: str, negative: str | None = None) -> set[str]:
        row = sampler.condition([prompt], None if negative is None else [negative])[0]
        return {name for name, weight in zip(sampler.names, row.tolist(), strict=True) if weight == 0}

    assert chosen("a Red disc") == {"red disc"} and chosen("blue") == {
        f"blue {s}" for s in ("disc", "ring", "square", "diamond")
    }
    assert len(chosen("")) == 12 and len(chosen("", "red")) == 8
    assert chosen("red disc", "disc") == {"red ring", "red square", "red diamond"}


def test_ddim_schedule_has_the_known_coefficients_of_stable_diffusion() -> None:
    schedule = ToyMixture(num_steps=4).schedule
    assert schedule.times == (999.0, 749.0, 499.0, 249.0)
    assert schedule.state == pytest.approx((3.48579, 2.21445, 1.55965, 1.21625), rel=1e-5)
    assert schedule.output == pytest.approx((-2.50638, -1.30094, -0.75584, -0.66376), rel=1e-4)
    assert schedule.gain == pytest.approx((0.71903, 0.58748, 0.48462, 0.54574), rel=1e-4)


def test_linear_flow_is_its_matrix_power() -> None:
    sampler = linear(num_steps=5)
    z = gf.draw_noise(sampler, [0, 1]).initial
    condition = sampler.condition(["", ""])
    out: Tensor = z
    for k in range(5):
        out = sampler.step(k, out, condition)
    power = torch.linalg.matrix_power(torch.eye(6, dtype=torch.float64) + sampler.matrix / 5, 5)
    torch.testing.assert_close(out, z @ power)
    assert torch.linalg.eigvalsh(sampler.matrix).abs().max() <= 0.5
    torch.testing.assert_close(sampler.matrix, sampler.matrix.T)


def test_prompt_moves_the_linear_flow_reproducibly() -> None:
    sampler = linear()
    rows = sampler.condition(["a", "b", "a", ""])
    assert torch.equal(rows[0], rows[2]) and not torch.equal(rows[0], rows[1]) and not rows[3].any()


@pytest.mark.parametrize("name", ["toy-linear", "toy-mixture"])
def test_loaded_by_name_they_give_pictures(name: str) -> None:
    options = {"image": True} if name == "toy-linear" else {}
    sampler = gf.load_sampler(name, size=8, **options)
    solution = gf.solve(sampler, lambda x: x.flatten(1).mean(1), prompt="red", max_iterations=2)
    gf.check_image(solution.images)
    assert solution.images.shape == (1, 3, *sampler.image_size)
    assert bool((solution.loss < solution.history["loss"][0]).all())


def test_bad_options_are_named() -> None:
    with pytest.raises(InvalidArgument, match="dtype='float16'"):
        ToyLinear(dtype="float16")
    with pytest.raises(InvalidArgument, match="num_steps=0"):
        ToyLinear(num_steps=0)
    with pytest.raises(InvalidArgument, match="deviation"):
        ToyMixture(deviation=0.0)
