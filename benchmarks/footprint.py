"""Derive how much memory guidance on each base needs, without running it: the numbers that `guideflow info` shows.

    python benchmarks/footprint.py

The networks of true size are built and evaluated on fake tensors, which have shapes and no content. What autograd saves
for the backward pass is counted once for each storage, frozen weights left out. Attention is counted as PyTorch's fused
kernels keep it: queries, keys, values and the result, never the matrix of all pairs.
"""

from collections.abc import Callable

import torch
from configurations import TEXT_ENCODERS, UNETS, VAE
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection


def parameters(network: torch.nn.Module) -> int:
    """Count a network's parameters."""
    return sum(weight.numel() for weight in network.parameters())


def saved(network: torch.nn.Module, call: Callable[[], object]) -> int:
    """Count the values that one differentiable evaluation keeps for its backward pass."""
    network.eval().requires_grad_(False)
    own = {weight.untyped_storage()._cdata for weight in network.state_dict().values()}
    kept: dict[int, torch.UntypedStorage] = {}
    numbers: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
            numbers[storage._cdata] = storage.nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(numbers.values())


def footprint(base: str) -> tuple[int, int, int, int, int]:
    """Count the numbers of one base: denoiser, text encoders, VAE, one evaluation, one decoding."""
    config = UNETS[base]
    unet, vae = UNet2DConditionModel(**config), AutoencoderKL(**VAE)
    kinds = [CLIPTextModel, CLIPTextModelWithProjection]
    encoders = [kind(CLIPTextConfig(**sizes)) for kind, sizes in zip(kinds, TEXT_ENCODERS[base], strict=False)]
    z = torch.randn(1, 4, config["sample_size"], config["sample_size"], requires_grad=True)
    more = {}
    if "addition_embed_type" in config:
        more["added_cond_kwargs"] = {"text_embeds": torch.randn(1, 1280), "time_ids": torch.randn(1, 6)}
    text, time = torch.randn(1, 77, config["cross_attention_dim"]), torch.tensor([500.0])
    step = saved(unet, lambda: unet(z, time, text, **more))
    decode = saved(vae, lambda: vae.decode(z))
    return parameters(unet), sum(map(parameters, encoders)), parameters(vae), step, decode


def main() -> None:
    """Print a table, in millions."""
    print("millions of numbers, for one image of the base's own size")
    print(f"{'base':8}" + "".join(f"{name:>10}" for name in ("denoiser", "text", "VAE", "step", "decode")))
    for base in UNETS:
        with FakeTensorMode():
            counts = footprint(base)
        print(f"{base:8}" + "".join(f"{count / 1e6:10.1f}" for count in counts))


if __name__ == "__main__":
    main()
