"""The main job in one command."""

from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

import guideflow as gf
from guideflow import images


def demo(out: Path) -> None:
    """Guide four seeds of a toy sampler towards blue, and draw the result.

    Arguments:
        out: Folder to write `demo.png` to.
    """

    def blue(image: Tensor) -> Tensor:
        target = image.new_tensor([0.2, 0.4, 0.9]).view(3, 1, 1)
        return (image - target).square().flatten(1).mean(1)

    solution = gf.solve(
        gf.load_sampler("toy-mixture"), blue, seed=[0, 1, 2, 3], callback=gf.callbacks.ProgressBar(), max_iterations=30
    )
    sheet = images.grid(torch.cat([solution.unguided, solution.images]), columns=4)
    path = images.save_image(out / "demo.png", sheet)
    Console().print(f"Above unguided, below guided: {path}", highlight=False, soft_wrap=True)
