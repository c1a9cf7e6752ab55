"""Derive how much memory guidance on each base needs, without running it: the numbers that `guideflow info` shows.

    python benchmarks/footprint.py

The networks of true size are built and evaluated on fake tensors, which have shapes and no content. What autograd saves
for the backward pass is counted once for each storage, frozen weights left out; where blocks are checkpointed, what is
alive when a block is evaluated again, and what it saves then. Attention is counted as PyTorch's fused kernels keep it:
queries, keys, values and the result, never the matrix of all pairs.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import configurations as known
import diffusers
import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from guideflow.memory import Created
from guideflow_diffusers.checkpointing import active, blocks, checkpointed, twin
from guideflow_diffusers.decoding import compression, latent_channels, unscale_and_decode
from guideflow_diffusers.flow import FlowAdapter
from guideflow_diffusers.flow_steps import euler_schedule
from guideflow_diffusers.flux import FluxAdapter
from guideflow_diffusers.flux2 import Flux2Adapter, unfold
from guideflow_diffusers.qwen_image import QwenImageAdapter
from guideflow_diffusers.sana import SanaAdapter
from guideflow_diffusers.sd3 import SD3Adapter
from guideflow_diffusers.z_image import ZImageAdapter

# The last three checkpointed, the decoder as in "windowed" and as in "checkpointed".
COLUMNS = ("denoiser", "text", "VAE", "step", "decode", "-step", "-decode", "--decode")


class Model(NamedTuple):
    """Networks of a base, and how denoiser and autoencoder are evaluated."""

    denoiser: nn.Module
    text: list[nn.Module]
    vae: nn.Module
    step: Callable[[nn.Module], torch.Tensor]
    decode: Callable[[nn.Module], torch.Tensor]


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


def saved_checkpointed(
    network: torch.nn.Module, call: Callable[[nn.Module], torch.Tensor], *, keep_convolutions: bool
) -> int:
    """Count the values kept at most where the blocks of a network are checkpointed.

    The backward pass evaluates the last block first; what later blocks kept is gone when a block is evaluated again.
    """
    given: list[tuple[torch.nn.Module, int, list, dict]] = []

    def note(block: nn.Module, _: nn.Module, args: tuple, more: dict) -> None:
        shapes = [value.shape if isinstance(value, torch.Tensor) else value for value in (*args, *more.values())]
        given.append((block, created.alive, shapes[: len(args)], dict(zip(more, shapes[len(args) :], strict=True))))

    def again(block: torch.nn.Module, args: list, more: dict) -> int:
        made = [torch.randn(value, requires_grad=True) if isinstance(value, torch.Size) else value for value in args]
        named = {name: torch.randn(value) if isinstance(value, torch.Size) else value for name, value in more.items()}
        alone = twin(block, chosen=())
        return saved(block, lambda: alone(*made, **named))

    with checkpointed(network, keep_convolutions=keep_convolutions), Created() as created:
        # The twin's blocks share the hooks.
        hooks = [block.register_forward_pre_hook(partial(note, block), with_kwargs=True) for block in blocks(network)]
        result = call(active(network))
        most = created.alive // 4
        del result
    for hook in hooks:
        hook.remove()
    return max(most, *(before // 4 + again(block, args, more) for block, before, args, more in given))


def count(model: Model) -> tuple[int, ...]:
    """Count the numbers of one base: denoiser, text encoders, VAE, one evaluation, one decoding, both checkpointed."""
    denoiser, vae = model.denoiser, model.vae
    return (
        *(parameters(denoiser), sum(map(parameters, model.text)), parameters(vae)),
        *(saved(denoiser, lambda: model.step(denoiser)), saved(vae, lambda: model.decode(vae))),
        saved_checkpointed(denoiser, model.step, keep_convolutions=False),
        *(saved_checkpointed(vae, model.decode, keep_convolutions=keep) for keep in (True, False)),
    )


def unet(base: str, side: int) -> Model:
    """Make a base of the Stable Diffusion family."""
    config = known.UNETS[base]
    kinds = [transformers.CLIPTextModel, transformers.CLIPTextModelWithProjection]
    encoders = zip(kinds, known.TEXT_ENCODERS[base], strict=False)
    z = torch.randn(1, 4, side // 8, side // 8, requires_grad=True)
    text, time, more = torch.randn(1, 77, config["cross_attention_dim"]), torch.tensor([500.0]), {}
    if "addition_embed_type" in config:
        more["added_cond_kwargs"] = {"text_embeds": torch.randn(1, 1280), "time_ids": torch.randn(1, 6)}
    return Model(
        diffusers.UNet2DConditionModel(**config),
        [kind(transformers.CLIPTextConfig(**sizes)) for kind, sizes in encoders],
        diffusers.AutoencoderKL(**known.VAE),
        lambda network: network(z, time, text, **more).sample,
        lambda network: network.decode(z).sample,
    )


def flow(
    denoiser: nn.Module,
    vae: nn.Module,
    text: list[nn.Module],
    adapter: FlowAdapter,
    words: tuple[int, int],
    pooled: int,
) -> Model:
    """Make a flow-matching model at 1024x1024; `words` is the number of tokens of a prompt and their width."""
    shape = adapter.latent_shape(vae, 1024, 1024)
    z = torch.randn(1, *shape, requires_grad=True)
    latent = unfold(z) if isinstance(adapter, Flux2Adapter) else z
    latent = latent.detach().requires_grad_()
    assert latent.shape[1:] == (latent_channels(vae), *(1024 // compression(vae),) * 2)
    prompt, other = torch.randn(1, *words), torch.randn(1, pooled) if pooled else None
    row = euler_schedule([0.5])[0]
    return Model(
        denoiser,
        text,
        vae,
        lambda network: adapter.velocity(network, z, row, prompt, other),
        lambda network: unscale_and_decode(network, latent),
    )


def flows() -> Iterator[tuple[str, Callable[[], Model]]]:
    """Name every flow-matching model, and tell how it is made."""
    kl = {**known.VAE, "latent_channels": 16}
    clip = transformers.CLIPTextModelWithProjection

    def t5() -> nn.Module:
        return transformers.T5EncoderModel(transformers.T5Config(**known.T5_XXL))

    def clips() -> list[nn.Module]:
        large = {**known.CLIP_L, "projection_dim": 768}
        return [clip(transformers.CLIPTextConfig(**sizes)) for sizes in (large, known.CLIP_G)]

    def qwen3() -> list[nn.Module]:
        return [transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**known.QWEN3_4B))]

    def gemma() -> list[nn.Module]:
        return [transformers.Gemma2Model(transformers.Gemma2Config(**known.GEMMA2_2B))]

    def qwen25() -> list[nn.Module]:
        config = transformers.Qwen2_5_VLConfig(**known.QWEN25_VL_7B)
        return [transformers.Qwen2_5_VLForConditionalGeneration(config)]

    def small_clip() -> nn.Module:
        return transformers.CLIPTextModel(transformers.CLIPTextConfig(**known.CLIP_L))

    def autoencoder() -> nn.Module:
        return diffusers.AutoencoderKL(**kl)

    yield (
        "FLUX.1",
        lambda: flow(
            diffusers.FluxTransformer2DModel(), autoencoder(), [small_clip(), t5()], FluxAdapter(), (256, 4096), 768
        ),
    )
    for base, sizes in known.SD3.items():
        yield (
            base,
            lambda sizes=sizes: flow(
                diffusers.SD3Transformer2DModel(**sizes),
                autoencoder(),
                [*clips(), t5()],
                SD3Adapter(),
                (77 + 256, 4096),
                2048,
            ),
        )
    yield (
        "Z-Image",
        lambda: flow(diffusers.ZImageTransformer2DModel(), autoencoder(), qwen3(), ZImageAdapter(), (128, 2560), 0),
    )
    yield (
        "FLUX.2 klein 4B",
        lambda: flow(
            diffusers.Flux2Transformer2DModel(**known.KLEIN_4B),
            diffusers.AutoencoderKLFlux2(),
            qwen3(),
            Flux2Adapter(),
            (512, 7680),
            0,
        ),
    )
    yield (
        "SANA-Sprint 1.6B",
        lambda: flow(
            diffusers.SanaTransformer2DModel(**known.SANA_SPRINT),
            diffusers.AutoencoderDC(**known.DC_AE),
            gemma(),
            SanaAdapter(),
            (300, 2304),
            0,
        ),
    )
    yield (
        "Qwen-Image",
        lambda: flow(
            diffusers.QwenImageTransformer2DModel(),
            diffusers.AutoencoderKLQwenImage(),
            qwen25(),
            QwenImageAdapter(),
            (128, 3584),
            0,
        ),
    )


def main() -> None:
    """Print a table, in millions."""
    print("millions of numbers, for one image")
    print(f"{'base, pixels':22}" + "".join(f"{name:>10}" for name in COLUMNS))
    own = [(base, 8 * config["sample_size"]) for base, config in known.UNETS.items()]
    sizes = dict.fromkeys([*own, *((base, 512) for base in known.UNETS)])
    made = [(base, side, lambda base=base, side=side: unet(base, side)) for base, side in sizes]
    made += [(base, 1024, make) for base, make in flows()]
    for base, side, make in made:
        with FakeTensorMode():
            counts = count(make())
        print(f"{base:16}{side:6}" + "".join(f"{found / 1e6:10.1f}" for found in counts), flush=True)


if __name__ == "__main__":
    main()
