"""Callbacks see every iteration and are closed whatever happens."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import guideflow as gf
from guideflow import images
from guideflow.callbacks import ImageSnapshots, ProgressBar, Recorder
from guideflow.errors import InvalidArgument
from problems import Distance, linear, mixture, smoothness, target


def solve(callback: Any, iterations: int = 3, **options: Any) -> gf.Solution:
    sampler = linear()
    return gf.solve(
        sampler, Distance(target(sampler)), seed=[0, 1], max_iterations=iterations, callback=callback, **options
    )


class Spy:
    """Log the calls."""

    def __init__(self, fail: type[BaseException] | None = None) -> None:
        self.log: list[Any] = []
        self.fail = fail

    def start(self, problem: gf.Problem, max_iterations: int) -> None:
        self.log.append(("start", max_iterations))

    def __call__(self, progress: Any) -> None:
        self.log.append(progress.iteration)
        if self.fail is not None and progress.iteration == 1:
            raise self.fail("stop")

    def close(self) -> None:
        self.log.append("close")


def test_called_for_every_iteration_with_hooks_around() -> None:
    one, two = Spy(), Recorder(lambda progress: progress.loss.clone())
    solution = solve([one, two])
    assert one.log == [("start", 3), 0, 1, 2, 3, "close"]
    assert torch.equal(torch.stack(two.values), solution.history["loss"])


def test_they_start_before_the_start_is_chosen_and_close_if_that_fails() -> None:
    spy = Spy()

    def loss(image: torch.Tensor) -> torch.Tensor:
        spy.log.append("loss")
        return smoothness(image)

    gf.solve(mixture(), loss, max_iterations=0, candidates=3, callback=spy)
    assert spy.log == [("start", 0), *["loss"] * 4, 0, "close"]
    broken = Spy()
    with pytest.raises(ZeroDivisionError):
        gf.solve(mixture(), lambda image: 1 / 0, candidates=3, callback=broken)
    assert broken.log == [("start", 12), "close"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_closed_when_something_fails(error: type[BaseException]) -> None:
    spies = [Spy(), Spy(fail=error)]
    if error is ValueError:
        with pytest.raises(ValueError, match="stop"):
            solve(spies)
    else:
        assert solve(spies).result[0] is gf.Result.INTERRUPTED
    assert [spy.log[-1] for spy in spies] == ["close", "close"]


def test_progress_tells_which_images_are_active_and_the_best_loss() -> None:
    seen: list[Any] = []
    loss = Distance(target(linear()))
    start = solve(None, 0).loss
    solve(seen.append, 2, target_loss=start.min().item())
    assert seen[0].active == tuple((start > start.min()).tolist())
    assert torch.equal(seen[-1].best_loss, torch.stack([p.loss for p in seen]).min(0).values)
    assert loss.name in seen[0].state.rollout.terms


def test_recorder_keeps_images_by_default() -> None:
    recorder = Recorder()
    solution = solve(recorder)
    assert torch.equal(recorder.values[0], solution.start) and len(recorder.values) == 4


def test_progress_bar_shows_the_loss_and_ends_cleanly() -> None:
    stream = io.StringIO()
    solution = solve(ProgressBar(Console(file=stream, width=120, force_terminal=True)))
    text = stream.getvalue()
    assert f"{solution.history['loss'][-1].mean():.4f}" in text and "3/3" in text


def test_snapshots_are_written_on_time(tmp_path: Path) -> None:
    gf.solve(mixture(), smoothness, seed=[0, 1], max_iterations=5, callback=ImageSnapshots(tmp_path / "new", every=2))
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == [f"iteration-{i:04d}.png" for i in (0, 2, 4)]
    picture = images.read_image(tmp_path / "new/iteration-0004.png")
    assert picture.shape[3] > picture.shape[2] > 0
    with pytest.raises(InvalidArgument, match="every"):
        ImageSnapshots(tmp_path, every=0)


def test_in_a_notebook_the_bar_is_drawn_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    class Handle:
        def update(self, bar: Any) -> None:
            drawn.append(bar._repr_html_())

    def display(bar: Any, display_id: bool) -> Handle:
        assert display_id
        drawn.append(bar._repr_html_())
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr("guideflow.callbacks.in_notebook", lambda: True)
    bar = ProgressBar()
    solve(bar)
    assert "choosing the start" in drawn[0] and 'value="0" max="3"' in drawn[0]
    assert 'value="3" max="3"' in drawn[-1] and "guiding 3/3, loss " in drawn[-1] and "0:00" in drawn[-1]
    with pytest.raises(RuntimeError, match="stop"):
        solve([bar, Spy(RuntimeError)])
    assert 'value="1" max="3"' in drawn[-1]
