"""Quantised networks: weights of few bits have gradients with respect to their input, unless that is rounded too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from guideflow.errors import InvalidArgument
from guideflow.losses.weights import one_line


def quantised_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Find the layers whose weights are no plain floating-point numbers, one of each kind, by the name of the layer."""
    found: dict[type, tuple[str, nn.Module]] = {}
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and (type(weight.data) is not Tensor or not weight.is_floating_point()):
            found.setdefault(type(module), (name, module))
    return dict(found.values())


def require_gradient(network: Any, name: str) -> None:
    """Refuse a network whose quantised layers have no gradient: each kind of layer is tried on a small random input."""
    for where, layer in quantised_layers(network).items():
        size, weight = getattr(layer, "in_features", None), layer.weight
        if not isinstance(size, int) or hasattr(network, "_hf_hook"):
            continue  # nothing to try, or not in its place yet
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, size, generator=generator).to(weight.device, network.dtype).requires_grad_()
        try:
            with torch.inference_mode(False), torch.enable_grad():
                (gradient,) = torch.autograd.grad(layer(x).float().square().sum(), x)
            why = "it is zero" if not gradient.any() else "" if gradient.isfinite().all() else "it is not finite"
        except Exception as error:  # the packages are many
            why = one_line(error, 120)
        if why:
            raise InvalidArgument(
                f"The {name} is quantised{_method(network)}, and its layer {where} ({type(layer).__name__}) has no "
                f"gradient: {why}. Load it unquantised, or with only its weights quantised."
            )


def require_plain(network: Any, name: str) -> None:
    """Refuse a network that is quantised at all."""
    if layers := quantised_layers(network):
        raise InvalidArgument(
            f"The {name} is quantised{_method(network)} (layer {next(iter(layers))}), and guidance needs it in "
            "float32. Load it unquantised."
        )


def _method(network: Any) -> str:
    """Name what quantised a network, as far as its configuration tells."""
    config = getattr(network, "config", None) or {}
    given = config.get("quantization_config") if hasattr(config, "get") else None
    method = given.get("quant_method") if isinstance(given, dict) else getattr(given, "quant_method", None)
    return f" by {getattr(method, 'value', method)}" if method else ""
