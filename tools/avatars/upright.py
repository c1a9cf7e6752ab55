"""Fits which way up a portrait is, on the features of the identity network: `upright.safetensors` beside its weights.

    python tools/avatars/upright.py             # three minutes on a core
    python tools/avatars/upright.py --measure   # the rates alone

A linear map from the pooled features to the four turns, by logistic regression on 2,000 portraits and 1,000 that are
moved, zoomed and darkened; portraits of 100 held-out people, and what is none, tell how often it is wrong.
"""

from __future__ import annotations

import argparse

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from common import WEIGHTS, as_float, load_data
from guideflow_avatars.identity import load_recogniser
from guideflow_avatars.upright import FILE, TURNED, UNSURE, Upright, features
from recognisers import affine

COUNT, RIDGE = 2000, 1e-3


def moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """Portraits smaller and larger, not in the middle, and darker, on a ground of one colour."""
    size, dx, dy, light = (torch.rand(len(x), generator=generator) for _ in range(4))
    grid = affine(torch.zeros(len(x)), 0.75 + 0.75 * size, 1, 0.2 * dx - 0.1, 0.2 * dy - 0.1, x.shape)
    inside = F.grid_sample(torch.ones_like(x[:, :1]), grid, align_corners=False)
    ground = torch.rand(len(x), 3, 1, 1, generator=generator)
    x = F.grid_sample(x, grid, align_corners=False) + (1 - inside) * ground
    return x * (0.5 + 0.5 * light).view(-1, 1, 1, 1)


def turned(x: Tensor, k: int) -> Tensor:
    """A quarter turn counter-clockwise, k times."""
    return torch.rot90(x, k, (2, 3))


def fit(network, x: Tensor) -> dict[str, Tensor]:
    """Logistic regression of all four turns of a portrait together, with a penalty on standardised features."""
    x = torch.cat([x, moved(x[: len(x) // 2], torch.Generator().manual_seed(0))])
    seen = torch.stack([features(network, turned(x, k)) for k in range(4)])
    mean, std = seen.mean((0, 1)), seen.std((0, 1))
    z, upright = (seen - mean) / std, torch.zeros(len(x), dtype=torch.long)
    weight = torch.zeros(z.shape[2], 4, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        scores = torch.stack([(z[k] @ weight).roll(-k, 1) for k in range(4)]).mean(0)
        loss = F.cross_entropy(scores, upright) + RIDGE * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return {"weight": (weight.detach().T / std).contiguous()}  # the means add the same to each of the scores


def measure(network, x: Tensor) -> None:
    """Print how sure it is of held-out portraits in each position, and of what is no portrait."""
    upright, generator = Upright(network), torch.Generator().manual_seed(1)
    sets = {f"turned by {90 * k}": turned(x, k) for k in range(4)}
    sets["moved, zoomed, darker"] = moved(x, generator)
    sets["one colour"] = torch.rand(300, 3, 1, 1, generator=generator).expand(-1, -1, 128, 128)
    sets["noise"] = torch.rand(300, 3, 128, 128, generator=generator)
    blotches = torch.rand(300, 3, 6, 6, generator=generator)
    sets["blotches"] = F.interpolate(blotches, 128, mode="bicubic").clamp(0, 1)
    for name, images in sets.items():
        margin = upright.margins(images)
        refused, told = (margin < TURNED).float().mean(), (margin < UNSURE).float().mean()
        print(
            f"{name:22s} {len(images):5d}   refused {refused:7.2%}   refused or told {told:7.2%}   "
            f"margin {margin.min():6.2f} to {margin.max():6.2f}"
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true")
    folder = WEIGHTS / "identity"
    network = load_recogniser(folder).eval().requires_grad_(False)
    if not parser.parse_args().measure:
        save_file(fit(network, as_float(load_data("train")["images"][:COUNT].cpu())), folder / FILE)
    measure(network, as_float(load_data("heldout")["images"][::5].cpu()))


if __name__ == "__main__":
    main()
