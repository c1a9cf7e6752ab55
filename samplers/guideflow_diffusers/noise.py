"""The noise schedule that the whole Stable Diffusion family shares."""

import functools


@functools.cache
def alpha_bar() -> tuple[float, ...]:
    """Cumulative product of 1 - beta, beta = linspace(sqrt(0.00085), sqrt(0.012), 1000)^2, in the models' float32."""
    import torch  # only here: listings read factories without it

    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
    return tuple(torch.cumprod(1 - beta, 0).tolist())
