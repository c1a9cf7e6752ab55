"""Nothing that was solved is lost, however a solve ends: errors, signals, a full disk, a process that is killed."""

import copy
import errno
import os
import pickle
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import guideflow as gf
import guideflow_avatars as avatars
from guideflow import storage
from guideflow._solve.keeping import room
from guideflow.errors import FolderInUse, InvalidArgument
from guideflow.stopping import stoppable
from problems import SOLVERS, Distance, assert_same, mixture, problem, target


class Faulty(Distance):
    """Does something in the middle of its n-th evaluation."""

    def __init__(self, target: Tensor, at: int, act: Callable[[], object]) -> None:
        super().__init__(target)
        self.at, self.act, self.count = at, act, 0

    def __call__(self, image: Any) -> Tensor:
        self.count += 1
        if self.count == self.at:
            self.act()
        return super().__call__(image)


def throw(error: BaseException) -> Callable[..., object]:
    def act(*args: Any) -> None:
        raise error

    return act


def solved(loss: Any = None, iterations: int = 6, **options: Any) -> gf.Solution:
    sampler = mixture()
    loss = Distance(target(sampler)) if loss is None else loss
    options = {"seed": [0, 1], "candidates": 1, **options}
    return gf.solve(sampler, loss, max_iterations=iterations, **options)


def again(folder: Any, iterations: int = 6, **options: Any) -> gf.Solution:
    sampler = mixture()
    return gf.resume(folder, max_iterations=iterations, sampler=sampler, loss=Distance(target(sampler)), **options)


# What raises


@pytest.mark.parametrize("error", [ValueError("of the loss"), MemoryError("out"), SystemExit(3), RuntimeError("cuda")])
def test_a_loss_that_raises_leaves_what_was_reached(error: BaseException, tmp_path: Path) -> None:
    loss = Faulty(target(mixture()), 4, throw(error))
    with pytest.raises(BaseException) as caught:
        solved(loss, save_to=tmp_path / "run")
    # Memory that runs out is told as such; what else was raised is raised as it is.
    assert caught.value is error or isinstance(caught.value, gf.errors.OutOfMemory)
    part: gf.Solution = caught.value.solution  # type: ignore[attr-defined]
    assert part.state.iteration == 2 and set(part.result) == {gf.Result.ERROR}
    assert "2 iterations are kept" in "".join(
        getattr(caught.value, "__notes__", ["2 iterations are kept"])
    )  # from Python 3.11
    whole = solved()
    for start in (part, tmp_path / "run"):
        assert_same(again(start), whole)


def test_where_nothing_can_be_saved_the_error_still_has_what_was_reached(tmp_path: Path, monkeypatch: Any) -> None:
    def fail(*args: Any) -> None:
        monkeypatch.setattr(gf.Solution, "save", throw(FolderInUse("taken meanwhile")))
        raise ValueError("of the loss")

    monkeypatch.setattr(gf.Solution, "save", lambda self, folder: None)
    with pytest.raises(ValueError, match="of the loss") as caught:
        solved(Faulty(target(mixture()), 4, fail), save_to=tmp_path / "run")
    assert caught.value.solution.state.iteration == 2  # type: ignore[attr-defined]
    assert "saved in" not in "".join(getattr(caught.value, "__notes__", []))


@pytest.mark.parametrize("method", ["__call__", "close"])
def test_so_does_a_callback_that_raises(method: str) -> None:
    class Callback:
        def __call__(self, progress: Any) -> None:
            if method == "__call__" and progress.iteration == 3:
                raise ConnectionError("of the tracker")

        def close(self) -> None:
            if method == "close":
                raise ConnectionError("of the tracker")

    with pytest.raises(ConnectionError) as caught:
        solved(callback=Callback())
    part = caught.value.solution  # type: ignore[attr-defined]
    assert part.state.iteration == (3 if method == "__call__" else 6)
    assert_same(again(part), solved())


def test_what_raises_before_the_first_iterate_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at once") as caught:
        solved(Faulty(target(mixture()), 1, throw(ValueError("at once"))), save_to=tmp_path / "run")
    assert not hasattr(caught.value, "solution") and not (tmp_path / "run").exists()


# Interrupts


@pytest.mark.parametrize("at", [2, 4, 5])
def test_an_interrupt_while_the_start_is_chosen_gives_the_best_so_far(at: int, tmp_path: Path) -> None:
    whole = solved(candidates=4)
    act = throw(KeyboardInterrupt())
    part = solved(Faulty(target(mixture()), at, act), candidates=4, save_to=tmp_path)
    assert set(part.result) == {gf.Result.INTERRUPTED} and part.state.iteration == 0
    assert torch.equal(part.unguided, whole.unguided)  # of the seeds' own noise
    fewer = solved(candidates=at - 1, iterations=0)
    assert torch.equal(part.chosen, fewer.chosen) and torch.equal(part.images, fewer.start)
    for start in (part, tmp_path):
        assert_same(again(start), whole)


def test_an_interrupt_before_there_is_anything_is_raised() -> None:
    with pytest.raises(KeyboardInterrupt):
        solved(Faulty(target(mixture()), 1, throw(KeyboardInterrupt())), candidates=4)


@pytest.fixture
def heeded() -> Iterator[None]:
    """As at a terminal: a shell's background jobs and nohup ignore some signals, and tests inherit that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heeded")
def test_control_c_many_times_in_a_row_counts_once(tmp_path: Path) -> None:
    def press() -> None:
        for _ in range(5):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    class Impatient:
        def __call__(self, progress: Any) -> None:
            pass

        def close(self) -> None:
            press()

    before = signal.getsignal(signal.SIGINT)
    part = solved(Faulty(target(mixture()), 4, press), callback=Impatient(), save_to=tmp_path)
    assert set(part.result) == {gf.Result.INTERRUPTED} and part.state.iteration == 2
    assert signal.getsignal(signal.SIGINT) is before
    assert_same(again(tmp_path), solved())


def test_a_signal_that_is_ignored_or_handled_elsewhere_is_left_alone(monkeypatch: Any) -> None:
    def own(number: int, frame: Any) -> None: ...

    handlers: tuple[Any, ...] = (signal.SIG_IGN, own)
    for handler in handlers:
        before = signal.signal(signal.SIGHUP, handler)
        with stoppable(signal.SIGHUP):
            assert signal.getsignal(signal.SIGHUP) is handler
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heeded")
def test_who_asks_again_much_later_means_it(monkeypatch: Any) -> None:
    clock: list[float] = []
    monkeypatch.setattr("guideflow.stopping.time.monotonic", lambda: clock[-1])
    with stoppable(signal.SIGTERM) as stop:
        for now, counts in ((0.0, True), (3.0, False), (9.9, False), (10.1, True)):
            clock.append(now)
            raised = False
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except KeyboardInterrupt:
                raised = True
            assert raised == counts
        assert stop.code == 143


# Disks


def test_the_folder_is_looked_at_before_the_work(tmp_path: Path, monkeypatch: Any) -> None:
    loss = Faulty(target(mixture()), 1, throw(AssertionError("worked")))
    (tmp_path / "file").write_text("")
    solved(iterations=0).save(tmp_path / "other")
    for name, error, says in (("file", InvalidArgument, "is a file"), ("other", FolderInUse, "another solve")):
        with pytest.raises(error, match=says):
            solved(loss, save_to=tmp_path / name)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(InvalidArgument, match=r"has room for 0 MB; this run needs about 1"):
        solved(loss, save_to=tmp_path / "new")
    with pytest.raises(InvalidArgument, match="checkpoint_every"):
        solved(loss, checkpoint_every=0)


@pytest.mark.parametrize("size", [6, 64])
def test_a_run_needs_no_more_room_than_was_asked_for(size: int, tmp_path: Path) -> None:
    sampler = mixture(size=size)
    solver = gf.TrustRegion(gf.Momentum(gf.FlowGrad(noise=1.0)))  # remembers most
    solution = gf.solve(sampler, Distance(target(sampler)), seed=[0, 1, 2], max_iterations=3, solver=solver)
    solution.save(tmp_path)
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert written < room(problem(sampler, seeds=(0, 1, 2))) < 8 * written + 2e6


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """No file may grow beyond a size: what is written fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_what_was_there_and_nothing_else(tmp_path: Path, small_disk: Callable[[int], None]) -> None:
    first = solved(iterations=2)
    first.save(tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    longer = gf.resume(first, max_iterations=4)
    small_disk(3000)
    for folder in ("run", "new"):
        with pytest.raises(OSError) as caught:
            longer.save(tmp_path / folder)
        assert caught.value.errno == errno.EFBIG
    assert {path.name for path in (tmp_path / "run").iterdir()} == names and not (tmp_path / "new").exists()
    assert_same(gf.Solution.load(tmp_path / "run"), first)


def test_a_checkpoint_that_fails_is_told_and_the_solve_goes_on(
    tmp_path: Path, small_disk: Callable[[int], None]
) -> None:
    def fill(progress: Any) -> None:
        if progress.iteration == 3:
            small_disk(3000)

    with pytest.warns(UserWarning, match=r"Iteration 4 could not be saved to .*The solve goes on"):
        with pytest.raises(OSError) as caught:
            solved(save_to=tmp_path / "run", checkpoint_every=2, callback=fill)
    whole = solved()
    assert_same(caught.value.solution, whole)  # type: ignore[attr-defined]
    small_disk(10**9)
    assert gf.Solution.load(tmp_path / "run").state.iteration == 2
    assert_same(again(tmp_path / "run"), whole)


# Processes that are killed


def killed(work: Callable[[], object], after: float | None = None) -> None:
    """Do work in a child process until it is killed, by itself or after some seconds."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_what_is_killed_between_checkpoints_goes_on_as_if_it_had_not_been(solver: Any, tmp_path: Path) -> None:
    die = Faulty(target(mixture()), 11, lambda: os.kill(os.getpid(), signal.SIGKILL))
    killed(lambda: solved(die, 12, save_to=tmp_path / "run", checkpoint_every=4, solver=solver))
    # Steps that are shortened call the loss too, so one that diverges is killed earlier.
    assert gf.Solution.load(tmp_path / "run").state.iteration == (
        4 if getattr(solver, "name", "") == "unanchored" else 8
    )
    assert_same(again(tmp_path / "run", 12, solver=solver), solved(None, 12, solver=solver))


@pytest.mark.parametrize("seed", range(4))
def test_a_process_that_is_killed_at_any_time_goes_on(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)

    def slow(progress: Any) -> None:
        (tmp_path / "began").touch()
        time.sleep(0.005)

    options: dict[str, Any] = {"save_to": tmp_path / "run", "checkpoint_every": 2, "callback": slow}
    killed(lambda: solved(None, 10**6, solver="flowgrad", **options), after=0.5 + draw.random() / 2)
    assert (tmp_path / "began").exists()
    done = gf.Solution.load(tmp_path / "run").state.iteration
    resumed = again(tmp_path / "run", done + 3)
    assert_same(resumed, solved(None, done + 3, solver="flowgrad"))
    resumed.save(tmp_path / "run")
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.suffix == ".part"]
    assert len([*(tmp_path / "run").glob("*.safetensors")]) == 2, "what the killed save left is gone"


def test_a_save_that_is_killed_at_any_step_leaves_the_one_before(tmp_path: Path, monkeypatch: Any) -> None:
    first, whole, steps = solved(iterations=2, solver="flowgrad"), solved(solver="flowgrad"), 0
    longer = gf.resume(first, max_iterations=4)
    replace, count = os.replace, 0

    def deadly(*paths: Any) -> None:
        nonlocal count
        if count == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        replace(*paths)

    monkeypatch.setattr(os, "replace", deadly)
    for steps in range(7):  # state, four pictures, history, manifest
        count = -100
        first.save(tmp_path / str(steps))
        count = 0
        killed(lambda folder=tmp_path / str(steps): longer.save(folder))  # type: ignore[misc]
        assert_same(gf.Solution.load(tmp_path / str(steps)), first)
        assert_same(again(tmp_path / str(steps)), whole)


# What is kept, and once


def test_what_stays_the_same_is_written_once(tmp_path: Path) -> None:
    picture = (torch.rand(3, 40, 60) * 255).round() / 255
    loss = Distance(target(mixture()))
    loss.references = lambda: (picture, picture, picture[:, :6] + 0.001)  # type: ignore[method-assign]
    sampler = mixture()
    half = gf.solve(sampler, loss, max_iterations=2)
    half.save(tmp_path)
    constant = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name[:5] in ("refer", "start")}
    assert len(constant) == 2
    gf.resume(half, max_iterations=4).save(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in constant} == constant
    assert len([*tmp_path.glob("state-*")]) == 1
    saved = gf.Solution.load(tmp_path).references
    assert len(saved) == 3 and all(map(torch.equal, saved, loss.references()))
    png = next(tmp_path.glob("reference-*.png"))
    assert png.stat().st_size < picture.numel() * 1.1, "8 bits each"


@pytest.mark.parametrize("number", [2, 3])
def test_a_run_of_a_release_before_is_read(number: int) -> None:
    """Kept as it was written: whatever changes, runs of 2 and 3 are read; a new format adds a folder of its own."""
    saved = gf.Solution.load(Path(__file__).parent / "saved" / f"format-{number}")
    more = gf.resume(saved, max_iterations=4, sampler=mixture(), loss=Distance(target(mixture())))
    whole = solved(None, 4, solver="flowgrad")
    for name in (
        "images",
        "unguided",
        "latents",
        "loss",
    ):  # by another processor, which rounds otherwise
        torch.testing.assert_close(getattr(more, name), getattr(whole, name), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dict(more.history), dict(whole.history), atol=1e-3, rtol=1e-3)
    assert more.result == whole.result and more.state.iteration == whole.state.iteration
    assert storage.FORMAT == 3


def test_a_file_that_is_another_is_noticed(tmp_path: Path) -> None:
    loss = Distance(target(mixture()))
    loss.references = lambda: (torch.zeros(3, 4, 4),)  # type: ignore[method-assign]
    gf.solve(mixture(), loss, max_iterations=1).save(tmp_path)
    for file in [*tmp_path.glob("*.safetensors"), *tmp_path.glob("reference-*")]:
        good = file.read_bytes()
        if file.suffix == ".png":
            gf.images.save_image(file, torch.ones(3, 4, 4))
        else:
            file.write_bytes(good[:-1] + b"x")
        with pytest.raises(gf.errors.CannotResume, match=r"is not what was saved|is not the reference"):
            gf.Solution.load(tmp_path)
        file.write_bytes(good)
    assert gf.Solution.load(tmp_path).state.iteration == 1


# What goes to another process


def test_solutions_losses_and_samplers_go_to_another_process_after_use() -> None:
    black, white = torch.zeros(3, 32, 32), torch.ones(3, 32, 32)
    sampler, loss = gf.load_sampler("toy-mixture"), 2 * gf.balanced(Distance(black), 2 * Distance(white))
    solution = gf.solve(sampler, gf.as_loss(lambda image: image.flatten(1).mean(1)), max_iterations=1)
    gf.solve(sampler, loss, max_iterations=1)
    again = pickle.loads(pickle.dumps(solution))
    assert_same(again, solution)
    assert again.problem is None and again.configs == solution.configs and solution.problem is not None
    there = pickle.loads(pickle.dumps((sampler, loss)))
    assert_same(gf.solve(*there, max_iterations=1), gf.solve(sampler, loss, max_iterations=1))


@pytest.mark.parametrize("name", ["identity", "subject", "style"])
def test_losses_on_networks_go_to_another_process_after_use(name: str) -> None:
    image = gf.images.read_image(avatars.portrait("ada"))
    loss = gf.load_loss(f"avatars-{name}", reference=avatars.portrait("ada"))
    value = loss(image)
    assert torch.equal(pickle.loads(pickle.dumps(loss))(image), value)
    assert torch.equal(copy.deepcopy(2 * loss)(image), 2 * value)


def test_a_network_of_transformers_goes_to_another_process_after_use() -> None:
    sampler = gf.load_sampler("avatars-perflow")
    text = sampler.condition(["a person"]).text
    there = pickle.loads(pickle.dumps(sampler))
    for again in (sampler, there):
        assert torch.equal(again.condition(["a person"]).text, text)
