"""Solve, resume, iterate: what a user calls."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from guideflow import provenance
from guideflow._given import count, in_range, one_of, plain_number
from guideflow._process import own_state
from guideflow._solve.advance import Advance
from guideflow._solve.keeping import Keeping, kept
from guideflow._solve.parts import check_memory, complete, describe, pose
from guideflow._solve.preset import named
from guideflow._solve.run import Run, begin
from guideflow._solve.same_loss import check_same_loss
from guideflow._solve.same_weights import check_same_weights
from guideflow._solve.verify import Compared as Compared
from guideflow._solve.verify import Verification as Verification
from guideflow._solve.verify import verify as verify
from guideflow._told import said
from guideflow.callbacks import Callback, as_callbacks
from guideflow.errors import CannotResume, InvalidArgument
from guideflow.losses.vision import ImageSources
from guideflow.problem import Problem, draw_noise
from guideflow.sampler import Sampler
from guideflow.settings import Settings, broadcast
from guideflow.solution import Solution
from guideflow.solvers import Solver, State
from guideflow.started import Started, started
from guideflow.storage.folder import as_folder
from guideflow.types import LossLike, map_tensors


def iterate(problem: Problem, solver: Solver, state: State | None = None) -> Iterator[State]:
    """Yield the states of a solver without end, first the given one or else the unguided one.

    `break` to stop; pass the last state to go on later. Nothing is kept, stopped or checked: that is `solve`'s work.
    """
    for name, given, kind in (("problem", problem, Problem), ("solver", solver, Solver), ("state", state, State)):
        if not isinstance(given, kind) and (name != "state" or given is not None):
            raise InvalidArgument(f"Got {said(given)} as {name}. Expected a `{kind.__name__}`.")
    advance = Advance(problem, solver)
    state = advance(None) if state is None else state
    while True:
        yield state
        state = advance(state)


@own_state()
def solve(
    sampler: Sampler,
    loss: LossLike,
    *,
    prompt: str | Sequence[str] = "",
    negative_prompt: str | Sequence[str] | None = None,
    seed: int | Sequence[int] = 0,
    solver: str | Solver = "auto",
    preset: bool = True,
    max_iterations: int | None = None,
    candidates: int | None = None,
    candidate_radius: float | None = None,
    start: ImageSources | None = None,
    strength: float | None = None,
    mask: ImageSources | None = None,
    paste_back: bool = False,
    callback: Callback | Sequence[Callback] | None = None,
    keep: Literal["best", "last"] = "best",
    target_loss: float | None = None,
    patience: int | None = None,
    time_limit: float | None = None,
    loss_scale: float = 100.0,
    gradient_mode: str = "full",
    memory_limit: float | None = None,
    save_to: str | PathLike[str] | None = None,
    checkpoint_every: int = 10,
    watermark: bool | None = None,
    throw: bool = False,
) -> Solution:
    """Guide a sampler with a loss.

    Image i depends only on prompt i and seed i. An image stops by itself; the others go on. Ctrl-C (or a callback that
    raises `KeyboardInterrupt`) ends the solve and returns what was reached. Whatever else the loss or a callback raises
    is raised further, with what was reached as its attribute `solution`.

    Arguments:
        sampler: from `load_sampler`, or any `Sampler`.
        loss: from `load_loss`, or any callable from an image batch to one number per image.
        prompt: one, or one per image.
        negative_prompt: one, or one per image; what the image should not show, for samplers that know it.
        seed: one, or one per image. Prompts and seeds are broadcast against each other.
        solver: a name or an object; "anchored" is the paper's own rule, which asks for more iterations.
        preset: whether a solver that is given by name takes the options of the preset for this sampler and this loss,
            if there is one; `settings.preset` says which it was. An object, `gf.Anchored()`, is taken as it is.
        max_iterations: number of updates; 0 gives the images that guidance would start from. None is what the solver
            asks for: 12, and 3 for the passes of "auto" where a preset asks for these. Such a preset is left out where
            a number is given.
        candidates: noises to choose each image's start from: the seed's own and others that depend on the seed alone.
            Each is rolled out once, without gradients, and that of lowest loss is guided. 1 keeps the seed's own; None
            is what the solver asks for, 16 for "auto" and 1 for the others.
        candidate_radius: share of a noise that is new in the second half of the candidates, in (0, 1]. Below 1 they
            walk from the best so far to what lies near it and is better; 1 draws all independently. None is what the
            solver asks for.
        start: picture to begin at instead of noise, one or one per image, of the sampler's proportions; see `Started`,
            also for the next three.
        strength: how much of it to forget, in (0, 1], 0.6 by default; 1 is as if it was not there.
        mask: white where the start picture may change, black where it is kept; of its size, one or one per image.
        paste_back: put pixels outside the mask back exactly as they were; otherwise they are encoded and decoded.
        callback: called with a `Progress` after every iteration, iteration 0 included; one or several.
        keep: the iterate to keep of each image, that of lowest loss or the last.
        target_loss: stop an image as soon as its loss is this low.
        patience: stop an image if its loss has not improved for so many iterations, all of them after the weights of a
            scheduled loss have settled.
        time_limit: stop after so many seconds, between iterations.
        loss_scale: factor of the loss before gradients are taken, see `Problem`.
        gradient_mode: how gradients are taken, which changes memory and time and not the numbers (beyond
            rounding): "full" (one graph, fastest), "windowed" (the memory of one step, one more forward evaluation of
            all steps but the last), "checkpointed" (also inside the networks, evaluated twice) or "auto" (the fastest
            that fits; the next one if memory runs out nevertheless). `stats["gradient_mode"]` tells which it was.
        memory_limit: bytes that gradients may keep, for gradient_mode="auto"; None for 80% of what the device has left.
        save_to: folder to save to, as `Solution.save` does: in the end, however the solve ends, and on the way. It is
            looked at before the work.
        checkpoint_every: with `save_to`, the number of iterations from one save to the next: what a process that is
            killed loses at most. `resume` goes on from there.
        watermark: whether saved pictures carry an invisible mark that says that they are generated; None for those of
            losses that pull towards a face. `images` never do.
        throw: raise `NonFinite` if an image met nan or inf, instead of reporting it in `result` only.

    Raises:
        InvalidArgument: for lists of different lengths and values out of range, if `save_to` cannot be written, if the
            sampler cannot begin at a picture, and if a preset is damaged.
        InvalidImage: if the start picture or the mask cannot be read or does not fit.
        FolderInUse: if `save_to` holds another solve.
        Refused: if a guard does not allow a prompt; see `guideflow.provenance.Guard`.
        InvalidLoss: if the loss does not return one differentiable number per image.
        IncompatibleSolver: if the solver needs a capability the sampler does not have.
        OutOfMemory: if the memory does not suffice for the gradients as asked.
    """
    for name, given in {"preset": preset, "paste_back": paste_back, "throw": throw}.items():
        one_of(name, given, (True, False))
    one_of("watermark", watermark, (None, True, False))
    sampler = started(sampler, start, strength, mask, paste_back)
    starts = sampler.images if isinstance(sampler, Started) else 1
    prompts, negatives, seeds = broadcast(prompt, negative_prompt, seed, starts)
    solver, found = named(solver, sampler, loss, preset, max_iterations) if isinstance(solver, str) else (solver, None)
    if not isinstance(solver, Solver):
        raise InvalidArgument(f"Got {solver!r} as solver. Expected a name or an object: `gf.Anchored()`.")
    max_iterations = solver.default_iterations if max_iterations is None else max_iterations
    settings = Settings(
        prompts=prompts,
        negative_prompts=negatives,
        seeds=seeds,
        max_iterations=max_iterations,
        horizon=max_iterations,
        candidates=solver.candidates if candidates is None else candidates,
        candidate_radius=solver.candidate_radius if candidate_radius is None else candidate_radius,
        keep=keep,
        target_loss=target_loss,
        patience=patience,
        loss_scale=loss_scale,
        gradient_mode=gradient_mode,
        memory_limit=memory_limit,
        watermark=provenance.is_marked(loss) if watermark is None else bool(watermark),
        preset=None if found is None else found.name,
    )
    provenance.check_prompts([*prompts, *(negatives or ())])
    callbacks, deadline, keeping = as_callbacks(callback), _deadline(time_limit), _keeping(save_to, checkpoint_every)
    problem = pose(sampler, loss, draw_noise(sampler, seeds), settings)
    configs = describe(sampler, loss, solver) | ({"preset": found.record()} if found else {})
    keeping.check(problem, settings.run)
    first = partial(begin, problem, solver, settings, configs)
    return kept(first, problem, max_iterations, callbacks, keeping, deadline, throw)


@own_state()
def resume(
    solution: Solution | str | PathLike[str],
    *,
    max_iterations: int,
    callback: Callback | Sequence[Callback] | None = None,
    time_limit: float | None = None,
    sampler: Sampler | None = None,
    loss: LossLike | None = None,
    solver: Solver | None = None,
    save_to: str | PathLike[str] | None = None,
    checkpoint_every: int = 10,
    throw: bool = False,
    trust: bool = False,
) -> Solution:
    """Go on with a solution, exactly as if it had been solved in one piece.

    Images that had reached the target, run out of patience or met nan stay as they are.

    A folder may come from anybody. What it says is made again by installed plugins alone; code is never run on its
    word, so a loss from a file, or one made with `allow_pickle=True`, has to be given again. Reference images and
    layouts are those in the folder. Other files outside of it are read with `trust` only, and other weights than those
    that the solve was made with are refused. A name on the Hub is no file: it is fetched again without trust, as what
    is fetched holds numbers and no code that is run. A solution that still holds its parts goes on with them, and reads
    nothing.

    Arguments:
        solution: a solution or the folder it was saved to.
        max_iterations: total number of iterations, those already done included.
        callback: as in `solve`.
        time_limit: as in `solve`, for this call.
        sampler: needed if the sampler was not made by `load_sampler`; likewise `loss` and `solver`.
        loss: see `sampler`.
        solver: see `sampler`.
        save_to: as in `solve`; it may be the folder that the solution was saved to.
        checkpoint_every: as in `solve`.
        throw: as in `solve`.
        trust: read the files outside the folder that the solution names; without it, they are listed in the error.

    Raises:
        CannotResume: if a part is missing, does not fit or asks for trust, or more iterations than `max_iterations`
            are done.
    """
    callbacks, deadline, keeping = as_callbacks(callback), _deadline(time_limit), _keeping(save_to, checkpoint_every)
    saved = solution if isinstance(solution, Solution) else Solution.load(solution)
    if max_iterations < saved.state.iteration:
        raise CannotResume(
            f"Got max_iterations = {max_iterations}, but {saved.state.iteration} iterations are done already. "
            "`max_iterations` is the total; give a larger one."
        )
    provenance.check_prompts([*saved.prompts, *(saved.settings.negative_prompts or ())])
    saved = replace(saved, settings=replace(saved.settings, max_iterations=max_iterations))
    given, old, folder = loss, saved.problem, None if isinstance(solution, Solution) else Path(solution)
    parts: dict[str, Any] = {
        "sampler": sampler or (old and old.sampler),
        "loss": old.loss if loss is None and old else loss,
        "solver": solver or saved.solver,
    }
    sampler, loss, solver = complete(saved, parts, folder, trust)
    if old is None or old.sampler is not sampler or old.loss is not loss:
        chosen = {name for name, part in (("sampler", parts["sampler"]), ("loss", parts["loss"])) if part is not None}
        check_same_weights(saved, folder, sampler, loss, chosen)
    saved = map_tensors(lambda tensor, axis: tensor.to(sampler.device), replace(saved, problem=None, solver=None))
    if given is not None and (old is None or old.loss is not given):
        check_same_loss(saved, given)
    if old is None or old.sampler is not sampler or old.loss is not loss:
        old = pose(sampler, loss, saved.noise, saved.settings)
    check_memory(saved, old, solver)
    keeping.check(old, saved.settings.run)
    start = partial(Run, Advance(old, solver), saved)
    if saved.state.rollout.gradients is None:  # it was interrupted while its start was chosen
        old = replace(old, noise=draw_noise(sampler, saved.seeds))
        start = partial(begin, old, solver, saved.settings, saved.configs)
    return kept(start, old, max_iterations, callbacks, keeping, deadline, throw)


def _keeping(save_to: str | PathLike[str] | None, checkpoint_every: int) -> Keeping:
    count("checkpoint_every", checkpoint_every)
    return Keeping(None if save_to is None else as_folder(save_to), int(checkpoint_every))


def _deadline(time_limit: float | None) -> float:
    seconds: Any = plain_number(time_limit)
    if seconds is None or (isinstance(seconds, float) and seconds == inf):
        return inf
    in_range("time_limit", seconds, 0, ends="()")
    return time.perf_counter() + float(seconds)
