"""What stands behind a name: a plugin, its entry with what listings show of it, or a file of the user's."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, cast

from guideflow._told import shorten
from guideflow.errors import BrokenPlugin, GuideflowError, InvalidArgument
from guideflow.registry.surroundings import put_back
from guideflow.registry.weights import Download, Footprint

FILE_NAME = re.compile(r"((?:[A-Za-z]:[\\/])?[^:=]+\.py)(?::([A-Za-z_]\w*))?")
"""How what is in a Python file of the user's is written: `path/to/file.py:Name`."""


@dataclass(frozen=True)
class Plugin:
    """An installed plugin, as its metadata tell: nothing is imported to make this.

    Arguments:
        name: The name of the entry point.
        module: The module it points to.
        distribution: The installed package that declares it.
        version: The version of that package.
    """

    name: str
    module: str
    distribution: str
    version: str


@dataclass(frozen=True)
class Entry:
    """What a hook says about one name; for a plain factory, the summary is the first line of its docstring.

    Arguments:
        factory: Called with the user's options by keyword; or where it is, `"module:name"`, to be imported only when it
            is called for, so that listings need not import what a factory is made of.
        summary: One line for listings.
        extra: The extra of guideflow it needs, as in `pip install 'guideflow[extra]'`.
        licence: The licence of the weights it loads.
        needs: What it asks for to work: `"face"` (in the image), `"prompt"`, `"affine sampler"`, ...
        base: The model family a sampler builds on, such as "SD 1.5".
        steps: The numbers of steps it can take, such as "1 to 4".
        downloads: What its defaults fetch; `()` if its weights are included, None if it does not say.
        footprint: The memory it needs by default.
        commercial: Whether the licence allows commercial use: "yes", "no", a condition, or "not verified".
        default_for: Sizes of cards, in gibibytes, for which the plugin recommends this one.
        notice: What everybody should know who loads it, such as whose consent it takes; told once in a process.
        domain: The kind of pictures a sampler draws or a loss knows: "cartoons", "photographs"; None for any.
        pictures: Folder of bundled pictures (PNG) that `reference=` of a loss may name.
        facts: What `guideflow info` shows besides, text by heading.
    """

    factory: Callable[..., Any] | str
    summary: str
    extra: str | None = None
    licence: str | None = None
    needs: tuple[str, ...] = ()
    base: str | None = None
    steps: str | None = None
    downloads: tuple[Download, ...] | None = None
    footprint: Footprint | None = None
    commercial: str | None = None
    default_for: tuple[int, ...] = ()
    notice: str | None = None
    domain: str | None = None
    pictures: Path | None = None
    facts: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        # What listings could not show is refused here, so that it is the plugin that fails and not the listing.
        good = {
            "factory": callable(self.factory) or isinstance(self.factory, str),
            "summary": isinstance(self.summary, str),
            "needs": _all(self.needs, str),
            "downloads": self.downloads is None or (_all(self.downloads, Download) and all(map(_told, self.downloads))),
            "default_for": _all(self.default_for, int),
            "footprint": isinstance(self.footprint, Footprint | None),
            "pictures": isinstance(self.pictures, Path | None),
            "facts": isinstance(self.facts, Mapping) and _all((*self.facts, *self.facts.values()), str),
        }
        words = ("extra", "licence", "base", "steps", "commercial", "notice", "domain")
        good |= {name: isinstance(getattr(self, name), str | None) for name in words}
        for name in (name for name, fits in good.items() if not fits):
            raise InvalidArgument(f"An entry got {name}={getattr(self, name)!r}, which has another type.")

    def resolve(self) -> Callable[..., Any]:
        """Return the factory, imported if need be; `BrokenPlugin` if it cannot be, or is not there."""
        if not isinstance(self.factory, str):
            return self.factory
        try:
            with put_back(threading.current_thread()):
                found = resolve_name(self.factory)
        except (GuideflowError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise BrokenPlugin(f"The factory {self.factory!r} cannot be imported. {reason(error)}.") from error
        if not callable(found):
            raise BrokenPlugin(f"The factory {self.factory!r} is {found!r}. Expected a class or a function.")
        return cast("Callable[..., Any]", found)

    @property
    def weights(self) -> str:
        """Where its weights are: "weights present", "weights to download", "weights included", or empty if unsaid."""
        if self.downloads is None:
            return ""
        if not self.downloads:
            return "weights included"
        return "weights present" if all(part.present() for part in self.downloads) else "weights to download"


@dataclass(frozen=True)
class Offer:
    """One name with the plugin that provides it."""

    kind: str
    name: str
    entry: Entry
    plugin: Plugin


def _all(given: object, kind: type) -> bool:
    return isinstance(given, tuple) and all(isinstance(one, kind) for one in given)


def _told(download: Download) -> bool:
    return isinstance(download.repository, str) and _all(download.files, str) and isinstance(download.size, int | float)


def is_file(name: str) -> bool:
    """Tell whether a name means something in a file, rather than an installed plugin."""
    return FILE_NAME.fullmatch(name) is not None


def reason(error: BaseException) -> str:
    """Write what went wrong on one line, whatever a plugin raises."""
    try:
        text = str(error)
    except Exception:  # of a class whose text fails itself
        text = "of which it cannot say more"
    return f"{type(error).__name__}: {shorten(text, 500)}"
