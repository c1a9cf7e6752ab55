"""What a sweep will take: one image of each sampler with each loss is tried, and the rest is counted."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from statistics import fmean as mean
from typing import Any

import torch

from guideflow import registry
from guideflow.errors import MissingWeights
from guideflow.problem import Problem, draw_noise
from guideflow.sweep import parts
from guideflow.sweep.fitting import image_bytes, used_bytes
from guideflow.sweep.jobs import Plan
from guideflow.sweep.rows import why


@dataclass(frozen=True)
class Estimate:
    """What a sweep will take.

    Arguments:
        seconds: Of one worker, one image at a time, for all jobs that could be estimated.
        memory: Bytes of a worker with batches as the spec has them.
        unknown: Why some jobs could not be estimated, by sampler and loss.
    """

    seconds: float
    memory: float
    unknown: dict[str, str]


@dataclass(frozen=True)
class _Trial:
    forward: float
    gradient: float
    weights: float
    image: float


def estimate(plan: Plan, jobs: int) -> Estimate:
    """Estimate time and memory of so many jobs of a plan.

        seconds of an image = candidates x forward + (iterations + 1) x gradient

    Both times are measured on one image of each sampler with each loss, with the first reference that can be read.
    Nothing is downloaded for this: where weights are not on this machine, the estimate says so.
    """
    seconds, memory, unknown = 0.0, 0.0, dict[str, str]()
    candidates, gradients = _rollouts(plan)
    each = jobs / max(1, len(plan.samplers) * len(plan.losses))
    for sampler, loss in product(plan.samplers.values(), plan.losses.values()):
        try:
            trial = _try(plan, sampler, loss)
        except Exception as error:  # whatever a plugin raises: a sweep would report it as a row
            unknown[f"{sampler['name']} with {' + '.join(term['name'] for term in loss)}"] = why(error)
            continue
        seconds += each * (candidates * trial.forward + gradients * trial.gradient)
        batch = trial.weights + plan.spec.batch * trial.image
        memory = max(memory, batch if plan.spec.memory is None else min(batch, plan.spec.memory))
    return Estimate(seconds, memory, unknown)


def _rollouts(plan: Plan) -> tuple[float, float]:
    """Return the rollouts of an image without gradients and with them, as solvers and settings have it in the mean."""
    asked = [parts.load_solver(solver) for solver in plan.solvers.values()]
    counts, iterations = [], []
    for solver, given in product(asked, plan.solves.values()):
        own, planned = given["candidates"], given["max_iterations"]
        counts.append(solver.candidates if own is None else own)
        iterations.append((solver.default_iterations if planned is None else planned) + 1)
    return mean(count if count > 1 else 0 for count in counts), mean(iterations)


def _try(plan: Plan, sampler_config: Mapping[str, Any], terms: list[dict[str, Any]]) -> _Trial:
    for kind, names in (("sampler", [sampler_config["name"]]), ("loss", [term["name"] for term in terms])):
        for name in names:
            if not registry.is_file(name) and registry.find(kind, name).entry.weights == "weights to download":
                raise MissingWeights(f"its weights are not on this machine yet; see `guideflow info {name}`")
    reference = next((one for one in plan.references if one.digest), plan.references[0])
    sampler = parts.load_sampler(sampler_config, plan.spec.device)
    loss = parts.load_loss(terms, reference.path, plan.spec.device)
    with torch.no_grad():
        condition = sampler.condition([next(iter(reference.prompts(plan.spec.prompts)))])
    mode = plan.spec.gradient_mode
    problem = Problem(sampler, loss, draw_noise(sampler, [0]), condition, gradient_mode=mode)
    controls = problem.z0.new_zeros(sampler.num_steps, *problem.z0.shape)

    def seconds(gradients: bool) -> float:
        def call() -> Any:
            return problem.rollout(problem.z0, controls, gradients=gradients)

        call()  # what is slower at first
        return _timed(call, sampler.device)

    weights = used_bytes(sampler.device)
    return _Trial(seconds(False), seconds(True), weights, image_bytes(sampler, loss, mode))


def _timed(call: Callable[[], Any], device: torch.device) -> float:
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
