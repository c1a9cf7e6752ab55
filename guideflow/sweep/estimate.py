"""What a sweep will take: one image of each sampler with each loss is tried, and the rest is counted."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from guideflow import registry
from guideflow.errors import MissingWeights
from guideflow.problem import Problem, draw_noise
from guideflow.sweep import parts
from guideflow.sweep.fitting import image_bytes, used_bytes
from guideflow.sweep.jobs import Config, Plan
from guideflow.sweep.worker import why


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
    seconds, memory, unknown, share = 0.0, 0.0, dict[str, str](), jobs / max(1, len(plan))
    trials = dict[tuple[str, str], _Trial | None]()
    for config in _configs(plan):
        pair = config.sampler_key, config.loss_key
        if pair not in trials:
            try:
                trials[pair] = _try(plan, config)
            except Exception as error:  # whatever a plugin raises: a sweep would report it as a row
                trials[pair], unknown[f"{config.sampler['name']} with {config.loss_name}"] = None, why(error)
        trial = trials[pair]
        if trial is not None:
            candidates, iterations = _counts(config)
            image = candidates * trial.forward + (iterations + 1) * trial.gradient
            seconds += share * image * len(plan) / plan.configs
            batch = trial.weights + plan.spec.batch * trial.image
            memory = max(memory, batch if plan.spec.memory is None else min(batch, plan.spec.memory))
    return Estimate(seconds, memory, unknown)


def _configs(plan: Plan) -> list[Config]:
    found: dict[str, Config] = {}
    first = plan.references[:1]
    for config, _ in Plan(plan.spec, first).groups():
        found.setdefault(config.key, config)
    return list(found.values())


def _counts(config: Config) -> tuple[int, int]:
    solver, solve = parts.load_solver(config.solver), config.solve
    candidates = solver.candidates if solve["candidates"] is None else solve["candidates"]
    return (candidates if candidates > 1 else 0), solve["max_iterations"]


def _try(plan: Plan, config: Config) -> _Trial:
    for kind, names in (("sampler", [config.sampler["name"]]), ("loss", [term["name"] for term in config.loss])):
        for name in names:
            if not registry.is_file(name) and registry.find(kind, name).entry.weights == "weights to download":
                raise MissingWeights(f"its weights are not on this machine yet; see `guideflow info {name}`")
    reference = next((one for one in plan.references if one.digest), plan.references[0])
    sampler = parts.load_sampler(config.sampler, plan.spec.device)
    loss = parts.load_loss(config.loss, reference.path, plan.spec.device)
    with torch.no_grad():
        condition = sampler.condition([next(iter(reference.prompts(plan.spec.prompts)))])
    mode = config.solve["gradient_mode"]
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
