"""The jobs of a spec, one after the other: only counted, or made when their turn comes."""

import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from guideflow.sweep import parts
from guideflow.sweep.references import Reference, references
from guideflow.sweep.spec import Spec


@dataclass(frozen=True)
class Config:
    """A sampler, a loss, a solver and the arguments of `guideflow.solve`: all of a job but reference, prompt and seed.

    `key` tells configs apart, `sampler_key` samplers, `loss_key` losses. `looks` are numbers of iterations before the
    end after which jobs are looked at.
    """

    key: str
    sampler_key: str
    loss_key: str
    sampler: Mapping[str, Any]
    loss: list[dict[str, Any]]
    solver: Mapping[str, Any]
    solve: Mapping[str, Any]
    looks: tuple[int, ...] = ()

    @property
    def iterations(self) -> tuple[int, ...]:
        """The iterations after which there is a row of each job, the end last."""
        return *self.looks, self.solve["max_iterations"]

    @property
    def loss_name(self) -> str:
        """The loss, as one reads it."""
        weights = (f"{term['weight']:g}*" if term["weight"] != 1 else "" for term in self.loss)
        return " + ".join(weight + term["name"] for weight, term in zip(weights, self.loss, strict=True))


@dataclass(frozen=True)
class Job:
    """One picture to make; `key` stands for everything that decides it."""

    key: str
    reference: Reference
    prompt: str
    seed: int


@dataclass(frozen=True)
class Batch:
    """Jobs of one config, which are solved together."""

    config: Config
    jobs: tuple[Job, ...]


class Plan:
    """All jobs of a spec, which are enumerated and never held.

    Samplers change least often, then losses, so that a worker seldom loads anything anew.
    """

    def __init__(self, spec: Spec, found: Sequence[Reference] | None = None) -> None:
        self.spec = spec
        self.samplers, self.losses = parts.samplers(spec.sampler), parts.losses(spec.loss, spec.references is not None)
        self.solvers, self.solves = parts.solvers(spec.solver), parts.solves(spec.solve)
        self.references = references(spec.references) if found is None else list(found)
        self._pictures = sum(
            len(one.seeds(spec.seeds)) * sum(1 for _ in one.prompts(spec.prompts)) for one in self.references
        )

    def __len__(self) -> int:
        """Count the jobs."""
        return min(self.configs * self._pictures, sys.maxsize)

    @property
    def configs(self) -> int:
        """Number of combinations of sampler, loss, solver and arguments of `solve`."""
        return len(self.samplers) * len(self.losses) * len(self.solvers) * len(self.solves)

    def configurations(self) -> Iterator[Config]:
        """List configs, in the order of the jobs."""
        for (sampler_key, sampler), (loss_key, loss) in product(self.samplers.items(), self.losses.items()):
            for (solver_key, solver), (solve_key, solve) in product(self.solvers.items(), self.solves.items()):
                if solve["max_iterations"] is None:
                    solve = {**solve, "max_iterations": parts.load_solver(solver).default_iterations}
                yield Config(
                    parts.key(sampler_key, loss_key, solver_key, solve_key),
                    sampler_key,
                    loss_key,
                    sampler,
                    loss,
                    solver,
                    {**solve, "gradient_mode": self.spec.gradient_mode, "watermark": self.spec.watermark},
                    tuple(look for look in self.spec.looks if look < solve["max_iterations"]),
                )

    def jobs(self, config: Config) -> Iterator[Job]:
        """List the jobs of a config."""
        for reference in self.references:
            for prompt, seed in product(reference.prompts(self.spec.prompts), reference.seeds(self.spec.seeds)):
                key = parts.key(config.key, reference.name, reference.digest, prompt, seed)
                yield Job(key, reference, prompt, seed)

    def batches(self, done: Container[str] = frozenset()) -> Iterator[Batch]:
        """List the jobs that are not done yet in batches. The same jobs make the same batches."""
        for config in self.configurations():
            jobs = (job for job in self.jobs(config) if job.key not in done)
            while batch := tuple(islice(jobs, self.spec.batch)):
                yield Batch(config, batch)
