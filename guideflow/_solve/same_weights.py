"""Whether networks that are loaded again are those that the solve was made with: told before the work."""

import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from guideflow.errors import CannotResume
from guideflow.sampler import Sampler
from guideflow.solution import Solution
from guideflow.started import Started
from guideflow.storage import origins
from guideflow.storage.folder import MANIFEST, read_manifest
from guideflow.types import LossLike


def check_same_weights(saved: Solution, folder: Path | None, sampler: Sampler, loss: LossLike, given: set[str]) -> None:
    """Refuse other weights that lie where those of the solve did, as in a folder that was trained on since.

    What is given goes on with a warning, as does what was solved on another machine or with another torch: merging a
    LoRA rounds otherwise there.
    """
    before = saved.configs.get("weights")
    sampler = sampler.sampler if isinstance(sampler, Started) else sampler
    for kind, part in {"sampler": sampler, "loss": loss}.items():
        then = before.get(kind) if isinstance(before, Mapping) else None
        now = origins.weights(part) if isinstance(then, Mapping) and then else {}
        other = ", ".join(name for name in now if then and then.get(name, now[name]) != now[name])
        if not other:
            continue
        why = f"The weights of the {kind} ({other}) are others than those that the solve was made with."
        if kind in given or not _is_here(saved, folder, sampler):
            warnings.warn(f"{why} The solve goes on with them, and may differ from one in one piece.", stacklevel=4)
            continue
        again = f"or give the {kind} to go on with others: `gf.resume(..., {kind}={kind})`"
        raise CannotResume(f"{why} Bring those back, {again}.").as_typed(f"{why} Bring those back.")


def _is_here(saved: Solution, folder: Path | None, sampler: Sampler) -> bool:
    """Tell whether a solve was made on this machine, with this torch."""
    made_with = None
    with suppress(CannotResume, OSError, ValueError):
        made_with = None if folder is None else read_manifest(folder / MANIFEST).get("versions")
    now = origins.versions()["torch"]
    torch = made_with.get("torch") if isinstance(made_with, Mapping) else now
    return saved.configs.get("machine") == origins.machine(sampler.device) and torch == now
