"""Gradient modes: the same numbers in each, `auto` and what it goes by, and what is kept on disk."""

import math
import os
import re
import resource
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import guideflow as gf
from guideflow.__main__ import main
from guideflow.errors import InvalidArgument, OutOfMemory
from guideflow.gradients import MODES
from guideflow.losses.base import evaluate
from guideflow.memory import _cgroup, alive_bytes, available_bytes, kept_bytes, ran_out
from guideflow.sampler import Row
from guideflow.toy import ToyMixture
from problems import SOLVERS, Distance, linear, mixture, problem, run, target

SAVING = MODES[1:]


class Checkpointed(ToyMixture):
    """The mixture, its steps and decoder checkpointed as a whole."""

    depth = 0

    @contextmanager
    def checkpointing(self, least: bool) -> Any:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def predict(self, z: Tensor, row: Row, condition: Any) -> Tensor:
        return self._again(super().predict, z, row, condition)

    def decode(self, z: Tensor) -> Tensor:
        return self._again(super().decode, z)

    def _again(self, function: Any, *args: Any) -> Any:
        from torch.utils.checkpoint import checkpoint

        return checkpoint(function, *args, use_reentrant=False) if self.depth else function(*args)


def stochastic(**options: Any) -> Checkpointed:
    return Checkpointed(**{"num_steps": 3, "size": 6, "family": "ancestral", "dtype": "float64", **options})


@pytest.mark.parametrize("mode", SAVING)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_every_solver_goes_the_same_way_in_every_mode(solver: Any, mode: str) -> None:
    sampler = stochastic()
    wanted, found = (run(problem(sampler, gradient_mode=m), solver, 3) for m in ("full", mode))
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours.rollout.images, theirs.rollout.images)
        torch.testing.assert_close(ours.rollout.gradients, theirs.rollout.gradients, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(ours.controls, theirs.controls, rtol=1e-10, atol=1e-12)
    assert found[0].rollout.gradients.abs().max() > 0


@pytest.mark.parametrize("mode", SAVING)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_closed_form_of_a_linear_flow(mode: str, steps: int) -> None:
    sampler = linear(num_steps=steps)
    task = problem(sampler, gradient_mode=mode)
    rollout = task.rollout(task.z0, torch.zeros(steps, *task.z0.shape, dtype=torch.float64))
    jacobian = torch.eye(6, dtype=torch.float64) + sampler.matrix / steps
    g = 100 * 2 / 6 * (rollout.images - target(sampler))
    for k in range(steps, -1, -1):
        torch.testing.assert_close(rollout.gradients[k], g)
        g = g @ jacobian
    rebuilt = steps if mode == "checkpointed" else steps - 1
    assert (rollout.evaluations, rollout.rebuilt) == (steps, rebuilt)


@pytest.mark.parametrize("mode", SAVING)
def test_nan_stays_in_its_image_and_images_do_not_depend_on_each_other(mode: str) -> None:
    sampler = stochastic()
    aim = Distance(target(sampler))
    spoilt = problem(sampler, lambda x: aim(x) * torch.tensor([1.0, torch.nan, 1.0]), (0, 1, 2), gradient_mode=mode)
    alone = problem(sampler, aim, (2,), gradient_mode=mode)
    bad = spoilt.rollout(spoilt.z0, torch.zeros(3, *spoilt.z0.shape, dtype=torch.float64)).gradients
    one = alone.rollout(alone.z0, torch.zeros(3, *alone.z0.shape, dtype=torch.float64)).gradients
    assert bool(bad[:, 1].flatten(1).isnan().any(1).all())
    torch.testing.assert_close(bad[:, 2:], one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", [*SAVING, "auto"])
def test_scheduled_and_balanced_losses_and_samplers_without_gradient_inside(mode: str) -> None:
    class Stuck(ToyMixture):
        def predict(self, z: Tensor, row: Row, condition: Any) -> Tensor:
            return super().predict(z, row, condition).detach()

    loss = gf.balanced(gf.as_loss(lambda x: x.square().mean((1, 2, 3)), "a"), lambda x: (1 - x).abs().mean((1, 2, 3)))
    loss = loss + gf.as_loss(lambda x: x.mean((1, 2, 3))).scheduled(start=1)
    sampler = Stuck(num_steps=3, size=6, dtype="float64")
    states = [run(problem(sampler, loss, gradient_mode=m), gf.Anchored(), 2)[-1] for m in ("full", mode)]
    torch.testing.assert_close(states[1].rollout.gradients, states[0].rollout.gradients, rtol=1e-10, atol=1e-10)


def test_auto_takes_the_fastest_mode_within_the_limit() -> None:
    sampler = stochastic(num_steps=4)
    judged = problem(sampler)
    z = leaf(judged.z0)
    _, window = kept_bytes(lambda: sampler.step(0, z, judged.condition, judged.noise.steps[0]))
    image, decoder = kept_bytes(lambda: sampler.decode(z))
    image = leaf(image)
    loss = alive_bytes(lambda: evaluate(judged.loss, image)[0])
    with sampler.checkpointing(False):
        small = loss + alive_bytes(lambda: sampler.decode(z))
    whole = 4 * window + decoder + loss
    assert 0 < loss and small + window < whole - 1
    for limit, mode in [(whole, "full"), (whole - 1, "windowed"), (small + window - 1, "checkpointed"), (0, MODES[-1])]:
        solution = gf.solve(
            sampler,
            judged.loss,
            seed=[0, 1],
            max_iterations=2,
            candidates=1,
            gradient_mode="auto",
            memory_limit=float(limit),
        )
        assert solution.stats["gradient_mode"] == mode
        assert solution.stats["network_evaluations"] == 12
        # Once to measure, and in each of three rollouts all windows again, or all but the last.
        again = {"full": 0, "windowed": 3, "checkpointed": 4}[mode]
        assert solution.stats["rebuilt_evaluations"] == 4 + 3 * again


def test_auto_takes_everything_where_there_is_room() -> None:
    solution = gf.solve(mixture(), Distance(target(mixture())), max_iterations=1, gradient_mode="auto")
    assert solution.stats["gradient_mode"] == "full"


def tried(told: list[warnings.WarningMessage]) -> list[tuple[str, ...]]:
    """The mode that was given up and the one that came next, in each warning of it; others are of what came before."""
    named = re.compile(r"memory for '(\w+)' gradients.* goes on with '(\w+)' ones")
    return [found.groups() for one in told if (found := named.search(str(one.message)))]


@pytest.mark.parametrize(("hunger", "mode"), [(0, "full"), (1, "windowed"), (2, "checkpointed")])
def test_auto_goes_on_with_less_when_memory_runs_out(hunger: int, mode: str) -> None:
    sampler = Hungry(hunger)
    loss = Distance(target(sampler))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        solution = gf.solve(sampler, loss, max_iterations=2, gradient_mode="auto", memory_limit=1e12)
    # One mode at a time, and so told; 1 runs out in the solve, 2 while it is measured.
    assert [following for _, following in tried(told)] == list(MODES[1 : hunger + 1])
    wanted = gf.solve(stochastic(), loss, max_iterations=2)
    assert solution.stats["gradient_mode"] == mode
    torch.testing.assert_close(solution.controls, wanted.controls, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("what", "mode"), [("decode", "windowed"), ("evaluate", "checkpointed"), ("predict", "checkpointed")]
)
def test_auto_tries_the_next_mode_where_memory_runs_out_while_it_measures(what: str, mode: str) -> None:
    class Tight(Checkpointed):
        def predict(self, z: Tensor, row: Row, condition: Any) -> Tensor:
            return super().predict(self.need("predict", z), row, condition)

        def decode(self, z: Tensor) -> Tensor:
            return super().decode(self.need("decode", z))

        def need(self, name: str, z: Tensor) -> Tensor:
            """Run out once for each mode in which this is not checkpointed."""
            if name == what and z.requires_grad and torch.is_grad_enabled() and not self.depth:
                torch.empty(2**60, dtype=torch.uint8)
            return z

    sampler = Tight(num_steps=3, size=6, family="ancestral", dtype="float64")
    plain, calls = Distance(target(sampler)), []

    def loss(image: Tensor) -> Tensor:
        if what == "evaluate" and len(calls) < 2:  # the two times that it is measured
            calls.append(1)
            torch.empty(2**60, dtype=torch.uint8)
        return plain(image)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = gf.solve(sampler, loss, max_iterations=2, candidates=1, gradient_mode="auto", memory_limit=1e12)
    assert found.stats["gradient_mode"] == mode
    assert tried(told) == [("full", "windowed"), ("windowed", "checkpointed")][: MODES.index(mode)]
    wanted = gf.solve(stochastic(), plain, max_iterations=2, candidates=1)
    torch.testing.assert_close(found.controls, wanted.controls, rtol=1e-10, atol=1e-12)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs a process that has less memory than the test")
def test_a_process_that_has_no_more_memory_goes_on_with_less() -> None:
    class Wide(Checkpointed):
        """Keeps 64 MB in every step for the backward pass."""

        def predict(self, z: Tensor, row: Row, condition: Any) -> Tensor:
            wide = z.flatten(1).mean(1, keepdim=True).expand(-1, 8_000_000).exp().mean()
            return super().predict(z, row, condition) + 0 * wide

    sampler = Wide(num_steps=8, size=6, family="ancestral", dtype="float64")
    options: dict[str, Any] = {"candidates": 1, "gradient_mode": "auto", "memory_limit": 1e12}
    loss = Distance(target(sampler))
    gf.solve(sampler, loss, max_iterations=0, **options)  # all is imported
    child = os.fork()
    if child == 0:
        try:
            now = re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
            # Room for a step with what it needs meanwhile, and not for eight; for these only if none of it is kept.
            resource.setrlimit(resource.RLIMIT_DATA, (int(now[0]) * 1024 + 400_000_000, -1))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = gf.solve(sampler, loss, max_iterations=1, **options)
            os._exit(MODES.index(found.stats["gradient_mode"]))
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == MODES.index("windowed")


def test_running_out_of_memory_says_what_to_type() -> None:
    task = problem(Hungry(1), gradient_mode="full")
    with pytest.raises(OutOfMemory, match="gradient_mode='auto'"):
        task.rollout(task.z0, torch.zeros(3, *task.z0.shape, dtype=torch.float64))
    sampler = Hungry(3)
    with (
        pytest.raises(OutOfMemory, match=r"'checkpointed' gradients.*fewer images"),
        pytest.warns(UserWarning, match="The solve goes on"),
    ):
        gf.solve(sampler, Distance(target(sampler)), gradient_mode="auto", memory_limit=1e12)
    # Other errors pass as they are.
    task = problem(linear(), lambda x: x @ torch.ones(5, dtype=torch.float64), gradient_mode="auto")
    with pytest.raises(RuntimeError, match="size"):
        task.rollout(task.z0, torch.zeros(3, *task.z0.shape, dtype=torch.float64))


class Hungry(Checkpointed):
    """Asks for more memory than there is in all modes before the given one, as the real network would."""

    def __init__(self, hunger: int) -> None:
        super().__init__(num_steps=3, size=6, family="ancestral", dtype="float64")
        self.hunger = hunger

    def predict(self, z: Tensor, row: Row, condition: Any) -> Tensor:
        several = z.grad_fn is not None
        if (several, several or not self.depth, True)[self.hunger - 1] if self.hunger and z.requires_grad else False:
            torch.empty(2**60, dtype=torch.uint8)
        return super().predict(z, row, condition)


def leaf(z: Tensor) -> Tensor:
    return z.clone().requires_grad_()


def test_what_a_graph_keeps_is_counted_once_and_without_what_was_there() -> None:
    x, weight = torch.ones(1000, requires_grad=True, dtype=torch.float64), torch.ones(1000, 1000, dtype=torch.float64)
    value, kept = kept_bytes(lambda: (x.exp().exp() @ weight).sin())  # two exps, the product; weight was there
    assert kept == 3 * 8000 and not value.requires_grad
    assert value[0].item() == pytest.approx(math.sin(1000 * math.exp(math.e)), abs=1e-6)
    y = x.exp().detach().requires_grad_()
    assert kept_bytes(lambda: (y * y.view(10, 100).flatten()).sum())[1] == 0
    assert alive_bytes(lambda: x.exp().exp()) == 2 * 8000
    assert alive_bytes(lambda: x.detach().exp().exp()) == 8000


def test_what_is_available(tmp_path: Path) -> None:
    assert 1e8 < available_bytes(torch.device("cpu")) < 1e14
    names = ("memory.max", "memory.current", "inactive_file")
    assert _cgroup(tmp_path, *names) == math.inf
    (tmp_path / "memory.current").write_text("300\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert _cgroup(tmp_path, *names) == math.inf
    (tmp_path / "memory.max").write_text("1000\n")
    assert _cgroup(tmp_path, *names) == 700
    (tmp_path / "memory.stat").write_text("anon 200\ninactive_file 100\n")
    assert _cgroup(tmp_path, *names) == 800


def test_errors_that_mean_no_memory() -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60, dtype=torch.uint8)
    assert ran_out(found.value) and ran_out(MemoryError()) and ran_out(torch.cuda.OutOfMemoryError("CUDA"))
    assert not ran_out(RuntimeError("shapes differ")) and not ran_out(ValueError("out of memory"))


def test_the_mode_is_saved_and_resumed(tmp_path: Path) -> None:
    sampler = stochastic(dtype="float32")
    loss = Distance(target(sampler).float())
    options: dict[str, Any] = {"gradient_mode": "windowed", "memory_limit": 5e9, "solver": "flowgrad"}
    whole = gf.solve(sampler, loss, max_iterations=4, **options)
    gf.solve(sampler, loss, max_iterations=2, **options).save(tmp_path)
    resumed = gf.resume(tmp_path, max_iterations=4, sampler=sampler, loss=loss)
    assert (resumed.settings.gradient_mode, resumed.settings.memory_limit) == ("windowed", 5e9)
    assert resumed.problem.gradient_mode == "windowed" and resumed.problem.memory_limit == 5e9
    assert torch.equal(resumed.controls, whole.controls)
    assert {k: v for k, v in resumed.stats.items() if k not in ("seconds", "peak_memory")} == {
        k: v for k, v in whole.stats.items() if k not in ("seconds", "peak_memory")
    }


def test_what_is_no_mode_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"'half'.*'auto', 'full', 'windowed', 'checkpointed'"):
        gf.solve(linear(), Distance(target(linear())), gradient_mode="half")
    with pytest.raises(InvalidArgument, match="memory_limit=-1"):
        problem(linear(), gradient_mode="auto", memory_limit=-1.0)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "grey.py").write_text("def grey(x):\n    return (x - 0.5).square().mean((1, 2, 3))\n")
    base = ["run", "--sampler", "toy-mixture:size=8", "--loss", f"{tmp_path / 'grey.py'}:grey", "--iterations", "1"]
    assert main([*base, "--gradient-mode", "windowed", "--out", str(tmp_path / "out")]) == 0
    solution = gf.Solution.load(tmp_path / "out")
    assert solution.settings.gradient_mode == solution.stats["gradient_mode"] == "windowed"
    assert main([*base, "--gradient-mode", "some", "--out", str(tmp_path / "other")]) == 2
    assert "Got gradient_mode='some'" in capsys.readouterr().err
    assert main(["run", "--resume", "--gradient-mode", "full", "--out", str(tmp_path / "out")]) == 2
    assert "--resume takes --gradient-mode from the saved run" in capsys.readouterr().err
