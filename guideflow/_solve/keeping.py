"""Nothing that was solved is lost: checkpoints on the way, and what ends a solve early leaves what it had reached."""

import signal
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from guideflow import provenance
from guideflow._solve.nonfinite import next_step
from guideflow._solve.run import Run
from guideflow.callbacks import Callback, started
from guideflow.errors import NonFinite
from guideflow.losses.base import as_sum
from guideflow.problem import Problem
from guideflow.settings import Result
from guideflow.solution import Solution
from guideflow.stopping import stoppable
from guideflow.storage.folder import check_folder


@dataclass(frozen=True)
class Keeping:
    """Where a solve is kept while it runs, and how often; nowhere without a folder."""

    folder: Path | None
    every: int

    def check(self, problem: Problem, run: str) -> None:
        """Refuse a folder that could not be saved to, or has too little room, before the work."""
        if self.folder is not None:
            check_folder(self.folder, run, room(problem))
            provenance.check_credentials()

    def checkpoint(self, run: Run) -> None:
        """Save every few iterations; a failure is told, and leaves the checkpoint before."""
        if self.folder is not None and run.state.iteration % self.every == 0:
            try:
                run.solution(Result.INTERRUPTED).save(self.folder)
            except Exception as error:
                warnings.warn(
                    f"Iteration {run.state.iteration} could not be saved to {self.folder}: {str(error).rstrip('.')}. "
                    "The solve goes on; what was saved before is as it was.",
                    stacklevel=2,
                )

    def save(self, solution: Solution) -> None:
        """Save what was reached in the end."""
        if self.folder is not None:
            solution.save(self.folder)


def room(problem: Problem) -> float:
    """Return the bytes that a solve needs on disk at most, while one save of it replaces another."""
    sampler, images = problem.sampler, problem.noise.initial.shape[0]
    height, width = sampler.image_size
    # A trajectory with its gradients and controls, the best one, and what solvers remember.
    latents = 12 * (sampler.num_steps + 1) * problem.z0.numel() * problem.z0.element_size()
    pictures = 12 * 3 * height * width * images * max(4, problem.z0.element_size())
    return 2 * latents + pictures + sum(one.numel() for one in as_sum(problem.loss).references()) + 1e6


def kept(
    begin: Callable[[], Run],
    problem: Problem,
    max_iterations: int,
    callbacks: Sequence[Callback],
    keeping: Keeping,
    deadline: float,
    throw: bool,
) -> Solution:
    """Iterate to the end and return the solution; or to an interrupt, which the solution tells.

    Whatever else is raised after the start is raised further, with the solution so far as its attribute `solution`.
    """
    run: Run | None = None
    with stoppable(signal.SIGINT):
        try:
            with started(callbacks, problem, max_iterations) as tell:
                run = begin()
                solution = run.finish(tell, keeping.checkpoint, deadline)
        except KeyboardInterrupt:
            if run is None:
                raise
            solution = run.solution(Result.INTERRUPTED)
        except BaseException as error:
            if run is not None:
                _hand_over(error, run, keeping)
            raise
        try:
            keeping.save(solution)
        except BaseException as error:
            _attach(error, solution, "The solve itself is not lost: it is this error's `solution`.")
            raise
    failed = {i: result for i, result in enumerate(solution.result) if result.failed}
    if throw and failed:
        told = "; ".join(f"Image {i}: {result.value}" for i, result in failed.items())
        raise NonFinite(f"{told} {next_step(solution)}".strip(), solution)
    return solution


def _hand_over(error: BaseException, run: Run, keeping: Keeping) -> None:
    """Give an error the solution so far, and save it."""
    where = "this error's `solution`"
    try:
        solution = run.solution(Result.ERROR)
        if keeping.folder is not None:
            with suppress(Exception):
                keeping.save(solution)
                where += f", and saved in {keeping.folder}"
    except Exception:  # of a device that is gone, with all tensors on it
        return
    _attach(error, solution, f"{solution.state.iteration} iterations are kept: {where}. `gf.resume` goes on with them.")


def _attach(error: BaseException, solution: Solution, note: str) -> None:
    with suppress(AttributeError, TypeError):  # an exception that takes no attribute, or Python before 3.11
        error.solution = solution  # type: ignore[attr-defined]
        error.add_note(note)  # type: ignore[attr-defined]
