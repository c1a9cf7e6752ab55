"""The avatars world: a small text-to-image model of cartoon portraits with its recognisers, trained, real and offline.

Everything a first try needs ships inside this package: `avatars-perflow` is a four-step sampler in the ordinary
diffusers layout, `avatars-identity` a loss that pulls pictures towards the person of a reference portrait.
"""

from collections.abc import Mapping
from pathlib import Path

from guideflow.errors import InvalidArgument
from guideflow.hookspecs import hookimpl
from guideflow.registry import Entry
from guideflow_avatars.identity import AvatarsIdentity as AvatarsIdentity
from guideflow_avatars.samplers import avatars_perflow as avatars_perflow

HERE = Path(__file__).parent
_WEIGHTS_LICENCE = "CC BY 4.0 (trained on ToonHead by Johan Melin)"


def portraits() -> tuple[str, ...]:
    """Names of the bundled reference portraits: people that no network of this world was trained on."""
    return tuple(sorted(path.stem for path in (HERE / "portraits").glob("*.png")))


def portrait(name: str) -> Path:
    """Path of a bundled reference portrait.

    Arguments:
        name: One of `portraits()`.

    Returns:
        Path of a PNG, 64x64.

    Raises:
        InvalidArgument: If there is no portrait of that name.
    """
    if name not in portraits():
        raise InvalidArgument(f"There is no bundled portrait {name!r}. Expected one of: {', '.join(portraits())}.")
    return HERE / "portraits" / f"{name}.png"


@hookimpl
def guideflow_samplers() -> Mapping[str, Entry]:
    """Samplers of the avatars world."""
    return {
        "avatars-perflow": Entry(
            avatars_perflow,
            summary="Cartoon portraits, 64x64, four-step PeRFlow; weights included",
            extra="diffusers",
            licence=_WEIGHTS_LICENCE,
            needs=("prompt",),
        )
    }


@hookimpl
def guideflow_losses() -> Mapping[str, Entry]:
    """Losses of the avatars world."""
    return {
        "avatars-identity": Entry(
            AvatarsIdentity,
            summary="Distance to the person in a reference avatar; weights included",
            extra="diffusers",
            licence=_WEIGHTS_LICENCE,
            needs=("reference",),
        )
    }
