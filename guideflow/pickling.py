"""What keeps a used loss or sampler from going to another process, and comes back by itself at its next call."""

from typing import Any, Final

from guideflow._networks import networks

_HOOK: Final = "install_output_capuring_hook."  # spelt so
_INSTALLED: Final = "_output_capturing_hooks_installed"


def state_of(made: object) -> dict[str, Any]:
    """Return what `pickle` is to write of a loss or sampler.

    transformers hangs local functions, which no pickle holds, into a network at its first call, and again where it is
    told that they are not there.
    """
    for _, network in networks(made):
        for module in network.modules():
            hooks = module._forward_hooks
            for key in [key for key, hook in hooks.items() if _HOOK in getattr(hook, "__qualname__", "")]:
                del hooks[key]
            vars(module).pop(_INSTALLED, None)
    return vars(made)
