"""The precision that a process computes float32 in, which belongs to all of its threads, changes no picture."""

import sys
import threading

import pytest
import torch

import guideflow as gf
from guideflow.storage import origins
from problems import mixture, target

LEAVES = [torch.backends.cuda.matmul, *(getattr(torch.backends.mkldnn, name, None) for name in ("matmul", "conv"))]
LEAVES = [leaf for leaf in LEAVES if hasattr(leaf, "fp32_precision")]
since_2_9 = pytest.mark.skipif(len(LEAVES) < 3, reason="needs torch 2.9")


def by_name():
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "one by one"


def state():
    cudnn = torch.backends.cudnn
    return by_name(), [leaf.fp32_precision for leaf in LEAVES], cudnn.benchmark, sys.float_info.min / 2 == 0


@pytest.fixture(autouse=True)
def _as_before():
    before = state()
    yield
    torch.backends.cudnn.benchmark = False
    torch.set_flush_denormal(False)
    if LEAVES:
        torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    for leaf, was in zip(LEAVES, before[1], strict=True):
        leaf.fp32_precision = was
    assert state() == before


class Seen:
    """A loss that writes down what it is computed in; through a product that is as coarse as the process allows."""

    def __init__(self, then=lambda: None):
        self.states, self.then = [], then
        self.matrix = torch.randn(108, 108, generator=torch.Generator().manual_seed(0))

    def __call__(self, image):
        self.states.append(state())
        self.then()
        return (image.flatten(1).float() @ self.matrix).square().mean(1) * 1e-42 * 1e38


def solve(loss, **options):
    options = {"seed": list(range(8)), "max_iterations": 2, "candidates": 1} | options
    return gf.solve(mixture(), loss, **options)


def _all_backends():
    torch.backends.fp32_precision = "tf32"


def _one_backend():
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"


def _convolutions():
    torch.backends.mkldnn.conv.fp32_precision = "bf16"


def _both_ways():
    torch.set_float32_matmul_precision("high")
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"


def _flag():
    torch.backends.cuda.matmul.allow_tf32 = True


def _race():
    torch.backends.cudnn.benchmark = True


SETTINGS = [
    *(lambda name=name: torch.set_float32_matmul_precision(name) for name in ("medium", "high")),
    _flag,
    _race,
    lambda: torch.set_flush_denormal(True),
    *(pytest.param(one, marks=since_2_9) for one in (_all_backends, _one_backend, _convolutions, _both_ways)),
]


@pytest.mark.parametrize("choose", SETTINGS)
def test_the_precision_of_the_process_changes_no_picture_and_is_back_afterwards(choose):
    seen = Seen()
    wanted = solve(seen)
    choose()
    chosen = state()
    found = solve(seen)
    assert torch.equal(found.images, wanted.images) and torch.equal(found.history["loss"], wanted.history["loss"])
    for name, leaves, *others in seen.states:
        assert (name, others) == ("highest", [False, False]) and not {"tf32", "bf16"} & {*leaves}
    assert state() == chosen


@since_2_9
def test_what_follows_the_setting_for_all_backends_follows_it_afterwards():
    torch.backends.fp32_precision = "tf32"
    solve(Seen())
    torch.backends.fp32_precision = "none"
    assert torch.backends.mkldnn.conv.fp32_precision == "none"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_it_is_back_after_an_exception(error):
    def fail():
        raise error

    torch.set_float32_matmul_precision("medium")
    with pytest.raises(BaseException):  # noqa: B017 — whatever a solve makes of it
        solve(Seen(fail))
    assert torch.get_float32_matmul_precision() == "medium"


def test_it_stays_whole_while_another_thread_computes():
    torch.set_float32_matmul_precision("medium")
    inside, first_is_done = threading.Event(), threading.Event()

    def wait():
        inside.set()
        assert first_is_done.wait(30)

    second = Seen(wait)
    thread = threading.Thread(target=solve, args=(second,), kwargs={"max_iterations": 0})
    first = Seen(lambda: (thread.is_alive() or thread.start(), inside.wait(30)))
    solve(first, max_iterations=0)
    assert torch.get_float32_matmul_precision() == "highest", "the other thread is not done"
    first_is_done.set()
    thread.join()
    assert torch.get_float32_matmul_precision() == "medium"
    assert {one[0] for one in first.states + second.states} == {"highest"}


def test_what_a_callback_chooses_meanwhile_is_kept():
    torch.set_float32_matmul_precision("medium")
    solve(Seen(), callback=lambda progress: torch.set_float32_matmul_precision("high"))
    assert torch.get_float32_matmul_precision() == "high"


def test_manual_steps_are_shielded_one_by_one():
    seen, sampler = Seen(), mixture()
    torch.set_float32_matmul_precision("medium")
    problem = gf.Problem(sampler, seen, gf.draw_noise(sampler, [0]), sampler.condition([""]))
    for state in gf.iterate(problem, gf.Anchored()):
        assert torch.get_float32_matmul_precision() == "medium"
        if state.iteration == 1:
            break
    assert {one[0] for one in seen.states} == {"highest"}


def test_what_cannot_be_shielded_is_recorded(tmp_path):
    sampler = mixture()

    def loss(image):
        return (image - target(sampler)).square().flatten(1).mean(1)

    gf.solve(sampler, loss, max_iterations=1, candidates=1).save(tmp_path / "run")
    assert gf.verify(tmp_path / "run", sampler=sampler, loss=loss).changes == ()
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        (change,) = gf.verify(tmp_path / "run", sampler=sampler, loss=loss).changes
    finally:
        torch.backends.cuda.enable_flash_sdp(True)
    assert change == "machine, settings, flash attention: nothing when it was made, off now"
    assert "settings" not in origins.machine(torch.device("cpu"))
