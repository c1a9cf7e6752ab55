"""What the caller's process or thread is set to changes no number: modes, default dtype, and threads that share."""

import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import cycle

import numpy as np
import pytest
import torch

import guideflow as gf
import guideflow_avatars as avatars
import tiny
from guideflow import registry
from guideflow.gradients import MODES
from guideflow_diffusers.checkpointing import active, checkpointed


def warmth(image):
    return (image[:, 2] - image[:, 0]).mean((1, 2))


def identity():
    return gf.load_loss("avatars-identity", reference=avatars.portrait("ada"))


def solve(sampler, loss=warmth, **options):
    return gf.solve(sampler, loss, **{"prompt": "a person", "max_iterations": 1, "candidates": 1} | options).images


@pytest.fixture(scope="module")
def sampler():
    return gf.load_sampler("avatars-perflow")


@pytest.fixture(scope="module")
def plain(sampler):
    return solve(sampler, identity())


def test_what_is_loaded_under_inference_mode_guides_outside_of_it(plain):
    with torch.inference_mode():
        sampler, loss = gf.load_sampler("avatars-perflow"), identity()
        assert torch.equal(solve(sampler, loss), plain)
    assert torch.equal(solve(sampler, loss), plain)


@pytest.mark.parametrize("name", ["identity", "subject", "segmentation"])
def test_losses_that_were_used_under_inference_mode_still_guide(name):
    ada = avatars.portrait("ada")
    image = gf.images.read_image(ada)
    with torch.inference_mode():
        if name == "identity":
            import guideflow_identity

            image = gf.images.read_image(guideflow_identity.example())
            loss = gf.load_loss("identity", reference=image)
        else:
            more = {"layout": torch.zeros(8, 8, dtype=torch.long)} if name == "segmentation" else {"reference": image}
            loss = gf.load_loss(f"avatars-{name}", **more)
        before = loss(image)
    x = image.clone().requires_grad_()
    after = loss(x)
    assert torch.equal(after, before) and torch.autograd.grad(after.sum(), x)[0].isfinite().all()


def test_networks_that_somebody_made_under_inference_mode_are_taken():
    with torch.inference_mode():
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4), torch.nn.BatchNorm1d(4))
    loss = gf.load_loss("style", reference=torch.rand(1, 3, 4, 4), network=network, backend="cosine")
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    assert torch.autograd.grad(loss(x).sum(), x)[0].abs().max() > 0


@pytest.mark.parametrize("mode", MODES)
def test_autocast_changes_nothing(sampler, plain, mode):
    whole = solve(sampler, identity(), gradient_mode=mode)
    torch.testing.assert_close(whole, plain, atol=1e-4, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(solve(sampler, identity(), gradient_mode=mode), whole)


def test_the_autoencoder_stays_in_float32_under_autocast(tmp_path):
    sampler = gf.load_sampler("perflow-sdxl", checkpoint=tiny.sdxl(tmp_path), variant=None)
    with torch.no_grad():  # beyond 65504, as in SDXL's own; a norm follows
        sampler.parts.vae.decoder.conv_in.weight.mul_(3e4)
    with torch.autocast("cpu", dtype=torch.float16):
        assert solve(sampler, prompt="a cat").isfinite().all()


def test_another_default_dtype_changes_nothing(sampler, plain):
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(solve(sampler, identity()), plain)
        assert torch.equal(solve(gf.load_sampler("avatars-perflow"), identity()), plain)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("state", ["default dtype", "default device", "device", "no_grad", "deterministic", "anomaly"])
def test_whatever_else_the_process_is_set_to_changes_nothing(state):
    """Loaded and used: `avatars-style` is made by hand, from a file of weights."""

    def made():
        return gf.load_sampler("avatars-instaflow"), gf.load_loss("avatars-style", reference=avatars.portrait("ada"))

    used = made()
    wanted = solve(*used)
    settings = {
        "default dtype": (
            lambda: torch.set_default_dtype(torch.float64),
            lambda: torch.set_default_dtype(torch.float32),
        ),
        "default device": (lambda: torch.set_default_device("meta"), lambda: torch.set_default_device(None)),
        "deterministic": (
            lambda: torch.use_deterministic_algorithms(True),
            lambda: torch.use_deterministic_algorithms(False),
        ),
    }
    on, off = settings.get(state, (lambda: None, lambda: None))
    around = {
        "device": torch.device("meta"),
        "no_grad": torch.no_grad(),
        "anomaly": torch.autograd.set_detect_anomaly(True),
    }
    generator = torch.get_rng_state()
    on()
    try:
        with around.get(state, nullcontext()):
            found = solve(*used)
        off()
        assert torch.equal(torch.get_rng_state(), generator), "the caller's own numbers"
        on()
        with around.get(state, nullcontext()):
            again = solve(*made())
    finally:
        off()
        torch.autograd.set_detect_anomaly(False)
    assert torch.equal(found, wanted) and torch.equal(again, wanted)


def test_threads_share_a_sampler(tmp_path):
    sampler = gf.load_sampler("perflow-sdxl", checkpoint=tiny.sdxl(tmp_path), variant=None)
    alone = {mode: solve(sampler, gradient_mode=mode, max_iterations=3) for mode in MODES}
    found = []

    def work(mode):
        found.append((mode, solve(sampler, gradient_mode=mode, max_iterations=3)))

    threads = [threading.Thread(target=work, args=(mode,)) for mode, _ in zip(cycle(MODES), range(6), strict=False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and all(torch.equal(images, alone[mode]) for mode, images in found)


def test_threads_that_share_a_sampler_encode_one_after_the_other(tmp_path):
    sampler = gf.load_sampler("perflow-sdxl", checkpoint=tiny.sdxl(tmp_path), variant=None)
    prompts = [["a"], ["a red hat and a blue one"], ["a", "a dog"]]
    alone = [sampler.condition(one).text for one in prompts]
    lost = []

    def work(n):
        for _ in range(50):
            if not torch.equal(sampler.condition(prompts[n % 3]).text, alone[n % 3]):
                lost.append(n)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert not lost


def test_other_threads_see_the_network_as_it_is(sampler):
    unet, seen = sampler.parts.unet, []
    with checkpointed(unet):
        assert active(unet) is not unet
        thread = threading.Thread(target=lambda: seen.append(active(unet)))
        thread.start()
        thread.join()
    assert seen == [unet] and active(unet) is unet


def random_states():
    """Of numpy and torch; and of Python, from which the run-time type checker of `make typed` draws what to look at."""
    own = [] if "typechecker" in sys.modules else [random.getstate()]
    return [*own, np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("name", ["avatars-style", "avatars-segmentation", "avatars-subject", "identity"])
def test_the_callers_random_numbers_go_on_as_if_nothing_had_been_loaded_or_solved(name, tmp_path):
    import guideflow_identity

    picture = guideflow_identity.example() if name == "identity" else avatars.portrait("ada")
    more = {"layout": torch.zeros(8, 8, dtype=torch.long)} if "segmentation" in name else {"reference": picture}
    before = random_states()
    gf.load_loss(name, **more)
    registry.factory("loss", name)(**more)  # as who imports the class does
    if name == "identity":
        gf.load_metric("identity-similarity"), registry.factory("metric", "identity-similarity")()
    toy = gf.load_sampler("toy-mixture", size=8, num_steps=2)
    gf.solve(toy, warmth, solver="best-of", max_iterations=1).save(tmp_path / "run")
    gf.Solution.load(tmp_path / "run")
    assert before == random_states()
