"""One guided iteration of a PeRFlow of Stable Diffusion 1.5's size, random weights, on this machine's CPU.

    python benchmarks/sd15_iteration.py                     # 256x256, float32: seconds and peak memory
    python benchmarks/sd15_iteration.py --dtype bfloat16    # half of the weights
    python benchmarks/sd15_iteration.py --tiny              # the same code in seconds

Nothing is downloaded: time and memory do not depend on what the weights are. The text encoder has the size of CLIP-L;
its tokenizer knows letters only.
"""

import argparse
import resource
import sys
import time
from typing import Any

import torch
from configurations import CLIP_L, UNETS, VAE
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import guideflow as gf
from guideflow_diffusers.latent import LatentSampler
from guideflow_diffusers.parts import Parts
from guideflow_diffusers.perflow import perflow_schedule

LIMIT = 12.0


def tokenizer() -> CLIPTokenizer:
    """One that knows letters."""
    letters = [*map(chr, range(97, 123)), *(f"{chr(c)}</w>" for c in range(97, 123))]
    tokens = [*letters, "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def build(dtype: torch.dtype, *, tiny: bool) -> Parts:
    """Make the parts from their configurations, one network at a time so that no copy in float32 stays."""
    unet: dict[str, Any] = UNETS["SD 1.5"]
    vae, text = VAE, CLIP_L
    if tiny:
        unet = unet | {"block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 32}
        vae = vae | {"block_out_channels": [32, 32, 32, 32]}
        text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Parts(
        unet=torch.nn.Module.to(UNet2DConditionModel(**unet), dtype),  # without diffusers' warning
        vae=AutoencoderKL(**vae),
        tokenizer=tokenizer(),
        text_encoder=CLIPTextModel(CLIPTextConfig(bos_token_id=52, eos_token_id=53, **text)).to(dtype),
    )


def peak() -> float:
    """Peak resident memory of this process, in GB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used * (1 if sys.platform == "darwin" else 1024) / 1e9


def main() -> None:
    """Build, guide for one iteration, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--size", type=int, default=256, help="side of the picture in pixels")
    parser.add_argument("--tiny", action="store_true", help="small networks of the same make")
    options = parser.parse_args()
    torch.manual_seed(0)
    start = time.perf_counter()
    parts = build(getattr(torch, options.dtype), tiny=options.tiny)
    size = 64 if options.tiny else options.size
    sampler = LatentSampler(parts, perflow_schedule(4), image_size=(size, size))
    millions = sum(weight.numel() for weight in parts.unet.parameters()) / 1e6
    print(f"denoiser of {millions:.0f} million parameters in {options.dtype}, {size}x{size}, 4 steps")
    print(f"built in {time.perf_counter() - start:.0f} s, {peak():.1f} GB at most so far")

    start = time.perf_counter()
    solution = gf.solve(
        sampler, lambda image: image.square().mean((1, 2, 3)), prompt="a cat", seed=0, max_iterations=1, keep="last"
    )
    seconds = time.perf_counter() - start
    values = ", ".join(f"{value.item():.4f}" for value in solution.history["loss"][:, 0])
    print(f"one guided iteration, with the unguided rollout before it: {seconds:.1f} s; loss {values}")
    verdict = "below" if peak() < LIMIT else "ABOVE"
    print(f"peak resident memory {peak():.1f} GB, {verdict} the {LIMIT:.0f} GB it is meant to fit in")


if __name__ == "__main__":
    main()
