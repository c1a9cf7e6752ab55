"""What a worker keeps from batch to batch: its sampler, the losses of its references, and what is known of both."""

import json
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from guideflow.losses.fingerprints import fingerprints
from guideflow.losses.sharing import Shared, sharing
from guideflow.sweep import parts
from guideflow.sweep.fitting import images_that_fit
from guideflow.sweep.jobs import Config, Job
from guideflow.sweep.references import Reference
from guideflow.types import LossLike


class Held:
    """The sampler and the losses of a worker: loaded when another one is asked for, with what was there let go first.

    Arguments:
        device: Where they run, if their options do not say.
        memory: Bytes that the worker may use in all; None does not look.
    """

    def __init__(self, device: str | None, memory: float | None) -> None:
        self._device, self._memory = device, memory
        self._sampler: tuple[str, Any] = "", None
        self._losses: tuple[str, Shared, dict[Hashable, LossLike]] = "", {}, {}
        self._fitting: dict[Hashable, int] = {}
        self._weights: dict[str, str] = {}

    def sampler(self, config: Config) -> Any:
        """Return the sampler of a config."""
        if self._sampler[0] != config.sampler_key:
            self._sampler = "", None  # before the next one: there may be no memory for both
            self._sampler = config.sampler_key, parts.load_sampler(config.sampler, self._device)
        return self._sampler[1]

    def losses(
        self, config: Config, jobs: Sequence[Job], failed: Callable[[list[Job], BaseException], object]
    ) -> dict[str, LossLike]:
        """Return the loss of each job by its key, on networks that all losses of a config share.

        Where one cannot be made, `failed` is told the jobs and why.
        """
        wanted = {_picture(job.reference): job.reference for job in jobs}
        key, networks, before = self._losses
        if key != config.loss_key:
            networks, before = {}, {}
        made: dict[Hashable, LossLike] = {picture: loss for picture, loss in before.items() if picture in wanted}
        self._losses = config.loss_key, networks, made
        for picture, reference in wanted.items():
            if picture not in made:
                try:
                    with sharing(networks):
                        made[picture] = parts.load_loss(config.loss, reference.path, self._device)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # a plugin may raise anything, SystemExit too
                    failed([job for job in jobs if _picture(job.reference) == picture], error)
        return {job.key: made[picture] for job in jobs if (picture := _picture(job.reference)) in made}

    def weights(self, config: Config, sampler: Any, loss: LossLike) -> dict[str, str]:
        """Return the checksums of the weights of sampler and loss, taken once for each, by column."""
        for key, made in ((config.sampler_key, sampler), (config.loss_key, loss)):
            if key not in self._weights:
                self._weights[key] = json.dumps({at: one.weights for at, one in fingerprints(made).items()})
        return {"sampler_weights": self._weights[config.sampler_key], "weights": self._weights[config.loss_key]}

    def fit(self, config: Config, sampler: Any, loss: LossLike, images: int) -> int:
        """Return how many of some images fit into the memory at a time."""
        if self._memory is None:
            return images
        key = config.sampler_key, config.loss_key, config.solve["gradient_mode"]
        if key not in self._fitting:
            self._fitting[key] = images_that_fit(sampler, loss, config.solve, self._memory)
        return min(images, self._fitting[key])


def _picture(reference: Reference) -> Hashable:
    return reference.path, reference.digest
