"""Derive how much memory guidance on each base needs, without running it: the numbers that `guideflow info` shows.

    python benchmarks/footprint.py

The networks of true size are built and evaluated on fake tensors, which have shapes and no content. What autograd saves
for the backward pass is counted once for each storage, frozen weights left out; where blocks are checkpointed, what is
alive when a block is evaluated again, and what it saves then. Attention is counted as PyTorch's fused kernels keep it:
queries, keys, values and the result, never the matrix of all pairs.
"""

from collections.abc import Callable

import torch
from configurations import TEXT_ENCODERS, UNETS, VAE
from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from guideflow.memory import Created
from guideflow_diffusers.checkpointing import blocks, checkpointed, frozen_convolutions

# The last three checkpointed, the decoder as in "windowed" and as in "checkpointed".
GATED = {"feed_forward_proj": "gated-gelu"}  # T5 v1.1
COLUMNS = ("denoiser", "text", "VAE", "step", "decode", "-step", "-decode", "--decode")


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


def saved_checkpointed(network: torch.nn.Module, call: Callable[[], torch.Tensor], *, keep_convolutions: bool) -> int:
    """Count the values kept at most where the blocks of a network are checkpointed.

    The backward pass evaluates the last block first; what later blocks kept is gone when a block is evaluated again.
    """
    given: list[tuple[torch.nn.Module, int, list, dict]] = []

    def note(block: torch.nn.Module, args: tuple, more: dict) -> None:
        shapes = [value.shape if isinstance(value, torch.Tensor) else value for value in (*args, *more.values())]
        given.append((block, created.alive, shapes[: len(args)], dict(zip(more, shapes[len(args) :], strict=True))))

    def again(block: torch.nn.Module, args: list, more: dict) -> int:
        made = [torch.randn(value, requires_grad=True) if isinstance(value, torch.Size) else value for value in args]
        named = {name: torch.randn(value) if isinstance(value, torch.Size) else value for name, value in more.items()}
        with frozen_convolutions(block):
            return saved(block, lambda: block(*made, **named))

    with checkpointed(network, keep_convolutions=keep_convolutions), Created() as created:
        hooks = [block.register_forward_pre_hook(note, with_kwargs=True) for block in blocks(network)]
        result = call()
        most = created.alive // 4
        del result
    for hook in hooks:
        hook.remove()
    return max(most, *(before // 4 + again(block, args, more) for block, before, args, more in given))


def footprint(base: str, side: int) -> tuple[int, ...]:
    """Count the numbers of one base: denoiser, text encoders, VAE, one evaluation, one decoding, both checkpointed."""
    config = UNETS[base]
    unet, vae = UNet2DConditionModel(**config), AutoencoderKL(**VAE)
    kinds = [CLIPTextModel, CLIPTextModelWithProjection]
    encoders = [kind(CLIPTextConfig(**sizes)) for kind, sizes in zip(kinds, TEXT_ENCODERS[base], strict=False)]
    z = torch.randn(1, 4, side // 8, side // 8, requires_grad=True)
    more = {}
    if "addition_embed_type" in config:
        more["added_cond_kwargs"] = {"text_embeds": torch.randn(1, 1280), "time_ids": torch.randn(1, 6)}
    text, time = torch.randn(1, 77, config["cross_attention_dim"]), torch.tensor([500.0])
    step = saved(unet, lambda: unet(z, time, text, **more))
    decode = saved(vae, lambda: vae.decode(z))
    small_step = saved_checkpointed(unet, lambda: unet(z, time, text, **more).sample, keep_convolutions=False)
    decodes = (
        saved_checkpointed(vae.decoder, lambda: vae.decode(z).sample, keep_convolutions=keep) for keep in (True, False)
    )
    weights = parameters(unet), sum(map(parameters, encoders)), parameters(vae)
    return *weights, step, decode, small_step, *decodes


def flux_footprint(side: int) -> tuple[int, ...]:
    """Count the same of FLUX.1, whose published sizes are the defaults of its class."""
    transformer, vae = FluxTransformer2DModel(), AutoencoderKL(**VAE | {"latent_channels": 16})
    t5 = {"vocab_size": 32128, "d_model": 4096, "d_ff": 10240, "num_heads": 64, "num_layers": 24}
    encoders = CLIPTextModel(CLIPTextConfig(**TEXT_ENCODERS["SD 1.5"][0])), T5EncoderModel(T5Config(**t5, **GATED))
    z, tokens = torch.randn(1, 16, side // 8, side // 8, requires_grad=True), (side // 16) ** 2
    packed = torch.randn(1, tokens, 64, requires_grad=True)
    more = {"encoder_hidden_states": torch.randn(1, 256, 4096), "pooled_projections": torch.randn(1, 768)}
    more |= {"timestep": torch.randn(1), "txt_ids": torch.zeros(256, 3), "img_ids": torch.zeros(tokens, 3)}
    step = saved(transformer, lambda: transformer(packed, **more))
    decode = saved(vae, lambda: vae.decode(z))
    small_step = saved_checkpointed(transformer, lambda: transformer(packed, **more).sample, keep_convolutions=False)
    decodes = (
        saved_checkpointed(vae.decoder, lambda: vae.decode(z).sample, keep_convolutions=keep) for keep in (True, False)
    )
    weights = parameters(transformer), sum(map(parameters, encoders)), parameters(vae)
    return *weights, step, decode, small_step, *decodes


def main() -> None:
    """Print a table, in millions."""
    print("millions of numbers, for one image")
    print(f"{'base, pixels':14}" + "".join(f"{name:>10}" for name in COLUMNS))
    own = [(base, 8 * config["sample_size"]) for base, config in UNETS.items()]
    for base, side in dict.fromkeys([*own, *((base, 512) for base in UNETS)]):
        with FakeTensorMode():
            counts = footprint(base, side)
        print(f"{base:8}{side:6}" + "".join(f"{count / 1e6:10.1f}" for count in counts))
    with FakeTensorMode():
        counts = flux_footprint(1024)
    print(f"{'FLUX.1':8}{1024:6}" + "".join(f"{count / 1e6:10.1f}" for count in counts))


if __name__ == "__main__":
    main()
