"""Hand-made networks and pictures for the tests of the style loss."""

import torch
from torch import nn

NOISE = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(1))


class Pixels(nn.Module):
    """Features are the colours of the pixels, as a map."""

    def forward(self, image):
        return image


class Mean(nn.Module):
    """The embedding is the mean colour."""

    def forward(self, image):
        return image.flatten(2).mean(2)


class Layers(nn.Module):
    """Two layers of random features, as a list of a map and of tokens."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 6, 3, stride=2)

    def forward(self, image):
        low = torch.tanh(self.first(image))
        return [low, self.second(low).flatten(2).transpose(1, 2)]


def plain(*rgb, size=8):
    return torch.tensor(rgb, dtype=torch.float32).view(3, 1, 1).expand(3, size, size).clone()
