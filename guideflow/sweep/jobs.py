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

    `key` tells configs apart, `sampler_key` samplers, `loss_key` losses.
    """

    key: str
    sampler_key: str
    loss_key: str
    sampler: Mapping[str, Any]
    loss: list[dict[str, Any]]
    solver: Mapping[str, Any]
    solve: Mapping[str, Any]

    @property
    def loss_name(self) -> str:
        """The loss, as one reads it."""
        weights = (f"{term['weight']:g}*" if term["weight"] != 1 else "" for term in self.loss)
        return " + ".join(weight + term["name"] for weight, term in zip(weights, self.loss, strict=True))


@dataclass(frozen=True)
class Job:
    """One picture to make; `key` stands for everything that decides it."""

    key: str
    prompt: str
    seed: int


@dataclass(frozen=True)
class Batch:
    """Jobs of one config and reference, which are solved together."""

    config: Config
    reference: Reference
    jobs: tuple[Job, ...]


class Plan:
    """All jobs of a spec, which are enumerated and never held.

    Samplers change least often, then losses and their references, so that a worker seldom loads anything anew.
    """

    def __init__(self, spec: Spec, found: Sequence[Reference] | None = None) -> None:
        self.spec = spec
        self.samplers, self.losses = parts.samplers(spec.sampler), parts.losses(spec.loss, spec.references is not None)
        self.solvers, self.solves = parts.solvers(spec.solver), parts.solves(spec.solve)
        self.references = references(spec.references) if found is None else list(found)
        self._prompts = sum(sum(1 for _ in reference.prompts(spec.prompts)) for reference in self.references)

    def __len__(self) -> int:
        """Count the jobs."""
        return min(self.configs * self._prompts * len(self.spec.seeds), sys.maxsize)

    @property
    def configs(self) -> int:
        """Number of combinations of sampler, loss, solver and arguments of `solve`."""
        return len(self.samplers) * len(self.losses) * len(self.solvers) * len(self.solves)

    def groups(self) -> Iterator[tuple[Config, Reference]]:
        """List configs with references, in the order of the jobs."""
        for (sampler_key, sampler), (loss_key, loss) in product(self.samplers.items(), self.losses.items()):
            configs = [
                Config(
                    parts.key(sampler_key, loss_key, solver_key, solve_key),
                    sampler_key,
                    loss_key,
                    sampler,
                    loss,
                    solver,
                    {**solve, "gradient_mode": self.spec.gradient_mode},
                )
                for (solver_key, solver), (solve_key, solve) in product(self.solvers.items(), self.solves.items())
            ]
            yield from ((config, reference) for reference in self.references for config in configs)

    def jobs(self, config: Config, reference: Reference) -> Iterator[Job]:
        """List the jobs of a config and a reference."""
        for prompt, seed in product(reference.prompts(self.spec.prompts), self.spec.seeds):
            yield Job(parts.key(config.key, reference.name, reference.digest, prompt, seed), prompt, seed)

    def batches(self, done: Container[str] = frozenset()) -> Iterator[Batch]:
        """List the jobs that are not done yet in batches. The same jobs make the same batches."""
        for config, reference in self.groups():
            jobs = (job for job in self.jobs(config, reference) if job.key not in done)
            while batch := tuple(islice(jobs, self.spec.batch)):
                yield Batch(config, reference, batch)
