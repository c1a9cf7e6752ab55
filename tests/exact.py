"""The loss of the avatars world in float64: rounding then hides nothing, whatever kernels the processor runs."""

import torch
from torch.nn import functional as F

import guideflow as gf
import guideflow_avatars as avatars
from guideflow_avatars.identity import WEIGHTS, load_recogniser


def exact_identity(name):
    """`avatars-identity` for a bundled portrait, with its own network in float64."""
    network = load_recogniser(WEIGHTS / "identity").double().eval().requires_grad_(False)

    def embed(image):
        return F.normalize(network(image * 2 - 1).logits, dim=1)

    with torch.no_grad():
        (target,) = embed(gf.images.read_image(avatars.portrait(name)).double())
    return lambda image: 1 - embed(image) @ target
