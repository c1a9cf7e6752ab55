"""What a process that is killed while it writes has left is removed by the next, and what another writes is not."""

import os
import signal
import time
from pathlib import Path

import pytest

import guideflow as gf
from guideflow import evaluation
from guideflow._files import is_left, remove_left, write_whole
from guideflow.cli.show import draw
from processes import ended, forked


@pytest.fixture(scope="module")
def solution():
    sampler = gf.load_sampler("toy-mixture", size=16, num_steps=2)
    return gf.solve(sampler, lambda image: image.mean((1, 2, 3)), max_iterations=1, candidates=1)


def killed_at(call, step, name="replace"):
    """Call in a process that is killed at a step of writing; tell whether there was such a step."""

    def work():
        count, whole = 0, getattr(os, name)

        def deadly(*given):
            nonlocal count
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return whole(*given)

        setattr(os, name, deadly)
        call()

    return ended(forked(work)) == -signal.SIGKILL


def parts(folder):
    return [path.name for path in folder.rglob("*.part*")]


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_evaluating_and_reporting_leave_nothing_behind(tmp_path, solution, name):
    folder = tmp_path / "run"
    solution.save(folder)

    def judge():
        evaluation.evaluate(folder, ["seconds", "peak-memory"])
        evaluation.report(evaluation.summarise(evaluation.read_evaluation(folder)))

    steps = 0
    while killed_at(judge, steps, name):
        assert len(parts(folder)) == 1
        judge()
        assert not parts(folder)
        steps += 1
    assert steps == 4, "two metrics, two pages"


def test_drawing_leaves_nothing_behind(tmp_path, solution):
    solution.save(tmp_path)
    assert killed_at(lambda: draw(solution, tmp_path), 0)
    assert len(parts(tmp_path)) == 1
    draw(solution, tmp_path)
    assert not parts(tmp_path)


def test_what_another_process_writes_is_left_alone(tmp_path, solution):
    solution.save(tmp_path)
    (tmp_path / "others.part").write_text("of the user")

    def slow():
        whole = os.fsync

        def wait(number):
            (tmp_path / "began").touch()
            time.sleep(1)
            whole(number)

        os.fsync = wait
        write_whole(tmp_path / "manifest.json", (tmp_path / "manifest.json").read_bytes())

    process = forked(slow)
    while not (tmp_path / "began").exists():
        time.sleep(0.01)
    (held,) = (path for path in tmp_path.iterdir() if path.name.startswith(".manifest.json-"))
    remove_left(tmp_path, ["manifest.json"])
    gf.resume(solution, max_iterations=2).save(tmp_path)
    assert held.exists() and not is_left(held)
    assert ended(process) == 0 and not held.exists()
    assert (tmp_path / "others.part").exists()


def test_names_that_are_no_files_are_not_waited_for(tmp_path):
    name = f".a.png-{'0' * 32}.part"
    os.mkfifo(tmp_path / name)
    (tmp_path / f".b.png-{'0' * 32}.part").symlink_to(Path("/dev/zero"))
    remove_left(tmp_path, ["b.png"])
    assert (tmp_path / f".b.png-{'0' * 32}.part").is_symlink()
    remove_left(tmp_path, ["a.png"])
