"""How an object can be made again: its name and options, kept on the object itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from os import PathLike, fspath
from typing import Any

from guideflow._given import plain_number
from guideflow.errors import GuideflowError
from guideflow.registry.discovery import find

_CONFIG = "guideflow_config"
_LONGEST = 1000


def note(made: Any, name: str, options: Mapping[str, Any]) -> Any:
    """Keep on an object how it was made, unless it takes no attribute or JSON cannot hold the options."""
    try:
        # Past the guard of a frozen dataclass: this is no hyper-parameter, and equality does not see it.
        object.__setattr__(made, _CONFIG, {"name": name, "options": _plain(options)})
    except (AttributeError, TypeError):
        pass
    return made


def config(made: object) -> dict[str, Any] | None:
    """Tell how a sampler, loss or solver can be made again: `{"name": ..., "options": {...}}` as it was loaded.

    None if it was made by hand or JSON cannot hold the options. Of a solver that is a dataclass all options, however
    it was made, so that a saved run goes on alike after a default has changed.
    """
    return _of_fields(made) or vars(made).get(_CONFIG) if hasattr(made, "__dict__") else None


def _of_fields(made: object) -> dict[str, Any] | None:
    if not is_dataclass(made):
        return None
    name = str(getattr(made, "name", ""))
    try:
        if find("solver", name).entry.resolve() is not type(made):
            return None
        return {"name": name, "options": _plain({item.name: getattr(made, item.name) for item in fields(made)})}
    except (GuideflowError, TypeError):
        return None


def _plain(options: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(dict(options), default=_written))


def _written(value: object) -> Any:
    if isinstance(value, PathLike):
        return str(fspath(value))
    if (found := config(value)) is not None:
        return found
    if isinstance(plain := plain_number(value), bool | int | float):
        return plain
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    tolist = getattr(value, "tolist", None)
    if callable(tolist) and len(getattr(value, "shape", ())) == 1 and len(value) <= _LONGEST:  # type: ignore[arg-type]
        return tolist()  # of a few numbers; a picture is none of those
    raise TypeError(f"{type(value).__name__} cannot be written down")
