"""New random numbers in the middle of a solve, that depend on nothing but the image and a key."""

import hashlib

import torch

from guideflow.problem import Problem
from guideflow.types import Latent


def draw(problem: Problem, *key: int) -> Latent:
    """Return standard normal noise for each image, drawn from the image's own initial noise and a key.

    A solver knows no seeds and keeps no generator, so that a step is a pure function: the same image gets the same
    numbers in every batch, after every resumption and on every device.

    Arguments:
        problem: whose initial noise tells images apart.
        key: what tells draws apart, such as iteration and window.
    """
    rows, text = [], repr(key).encode()
    for one in problem.noise.initial.float().cpu():
        digest = hashlib.sha256(one.contiguous().numpy().tobytes() + text).digest()
        generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        rows.append(torch.randn(one.shape, generator=generator, dtype=torch.float32, device="cpu"))
    return torch.stack(rows).to(problem.noise.initial)
