"""What keeps a used loss or sampler from going to another process, and comes back by itself at its next call."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

_HOOK: Final = "install_output_capuring_hook."  # spelt so
_INSTALLED: Final = "_output_capturing_hooks_installed"


def state_of(made: object) -> dict[str, Any]:
    """Return what `pickle` is to write of a loss or sampler.

    transformers hangs local functions, which no pickle holds, into a network at its first call, and again where it is
    told that they are not there.
    """
    from torch import nn  # only here: samplers are defined without it

    seen = set[int]()

    def clean(value: Any) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, nn.Module):
            for module in value.modules():
                hooks = module._forward_hooks
                for key in [key for key, hook in hooks.items() if _HOOK in getattr(hook, "__qualname__", "")]:
                    del hooks[key]
                vars(module).pop(_INSTALLED, None)
        elif isinstance(value, Mapping | list | tuple):
            for inner in value.values() if isinstance(value, Mapping) else value:
                clean(inner)
        elif is_dataclass(value) and not isinstance(value, type):
            for item in fields(value):
                clean(getattr(value, item.name, None))
        elif type(value).__module__.partition(".")[0] == package and hasattr(value, "__dict__"):
            clean(vars(value))

    package = type(made).__module__.partition(".")[0]
    clean(vars(made))
    return vars(made)
