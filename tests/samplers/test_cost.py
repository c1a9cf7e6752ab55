"""What a guided iteration is made of and nothing else: the rules; `benchmarks/speed.py` has the times."""

import pytest
import torch

import guideflow as gf
import guideflow_avatars as avatars
from exact import exact_identity

PROMPT = "a smiling person with a yellow t-shirt, purple background"


@pytest.fixture(scope="module")
def sampler():
    return gf.load_sampler("avatars-perflow")


@pytest.fixture(scope="module")
def exact_sampler():
    return gf.load_sampler("avatars-perflow", dtype="float64", image_size=64)


@pytest.fixture(scope="module")
def loss():
    return gf.load_loss("avatars-identity", reference=avatars.portrait("ada"))


@pytest.mark.slow
def test_eight_pictures_in_one_solve_are_those_of_eight_solves(exact_sampler):
    """In float64: the kernels for another batch size may round otherwise, and by how much depends on the processor."""
    sampler, loss = exact_sampler, exact_identity("ada")
    prompts = [PROMPT, "a sad person with a red dress", ""] * 2 + [PROMPT] * 2
    options = {"max_iterations": 1, "candidates": 2, "keep": "last"}
    together = gf.solve(sampler, loss, prompt=prompts, seed=range(8), **options)
    for i, prompt in enumerate(prompts):
        alone = gf.solve(sampler, loss, prompt=prompt, seed=i, **options)
        assert (alone.images[0] - together.images[i]).abs().max() < 1e-9
        assert abs(alone.loss[0] - together.loss[i]) < 1e-9
    moved = (together.images - together.unguided).flatten(1).norm(dim=1) / together.images.flatten(1).norm(dim=1)
    assert moved.min() > 1e-2, "they were guided"


class Counter:
    """Counts the evaluations of a network, and in how many its output asks for a gradient."""

    def __init__(self, network):
        self.calls = self.with_gradient = 0
        self.handle = network.register_forward_hook(self.add)

    def add(self, network, inputs, output):
        output = output[0] if isinstance(output, tuple) or hasattr(output, "keys") else output
        found = next(iter(output.values())) if isinstance(output, dict) else output
        self.calls += 1
        self.with_gradient += found.requires_grad


@pytest.mark.parametrize("candidates", [1, 3])
def test_a_solve_evaluates_each_network_as_often_as_the_cost_model_says(sampler, loss, candidates):
    parts, iterations, steps = sampler.parts, 3, sampler.num_steps
    networks = {
        "denoiser": parts.unet,
        "decoder": parts.vae.decoder,
        "encoder": parts.vae.encoder,
        "text": parts.text_encoder,
        "loss": loss._network,
    }
    counters = {name: Counter(network) for name, network in networks.items()}
    options = {"solver": gf.Auto(), "max_iterations": iterations, "candidates": candidates}
    solution = gf.solve(sampler, loss, prompt=PROMPT, seed=[0, 1], **options)
    for counter in counters.values():
        counter.handle.remove()
    rollouts = iterations + 1
    tried = rollouts + (candidates if candidates > 1 else 0)
    assert {name: counter.calls for name, counter in counters.items()} == {
        "denoiser": steps * tried,
        "decoder": tried,
        "encoder": 0,
        "text": 1,  # the prompt is encoded once, for all images and iterations
        "loss": tried,  # the reference was embedded before
    }
    assert {name: counter.with_gradient for name, counter in counters.items()} == {
        "denoiser": steps * rollouts,  # candidates are rolled out without
        "decoder": rollouts,
        "encoder": 0,
        "text": 0,
        "loss": rollouts,
    }
    assert solution.stats["network_evaluations"] == steps * tried
    for network in networks.values():
        for weight in network.parameters():
            assert not weight.requires_grad and weight.grad is None, "weights cost no gradient"


def bare_loop(sampler, loss, prompt, seed, iterations):
    """Anchored guidance with nothing around it."""
    rows = list(zip(sampler.schedule.times, sampler.schedule.state, sampler.schedule.output, strict=True))
    unet, vae = sampler.parts.unet, sampler.parts.vae
    z0 = gf.draw_noise(sampler, [seed]).initial
    text = sampler.condition([prompt]).text
    controls = [torch.zeros_like(z0) for _ in rows]
    for _ in range(iterations + 1):
        states = [z0.clone().requires_grad_()]
        for (t, a, b), control in zip(rows, controls, strict=True):
            output = unet(states[-1], torch.tensor([t]), encoder_hidden_states=text).sample
            states.append(a * states[-1] + b * output + control)
        picture = (vae.decode(states[-1] / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
        gradients = torch.autograd.grad(100 * loss(picture).sum(), states[:-1])
        controls = [
            u - z0.numel() ** 0.5 / 128 * c * g / g.norm().clamp(min=1)
            for u, c, g in zip(controls, sampler.schedule.gain, gradients, strict=True)
        ]
    return picture.detach()


def test_a_bare_loop_over_the_same_networks_gives_the_same_picture(exact_sampler):
    sampler, loss = exact_sampler, exact_identity("ada")
    solution = gf.solve(sampler, loss, prompt=PROMPT, seed=5, max_iterations=3, keep="last", solver=gf.Anchored())
    assert (solution.images - bare_loop(sampler, loss, PROMPT, 5, 3)).abs().max() < 1e-9
