"""Tiny random checkpoints in the true on-disk layout of diffusers: 8x8 latents, 16x16 pictures, milliseconds a forward.

Every function is deterministic in its seed and leaves the global random state alone.
"""

import json
import tempfile
from pathlib import Path

import torch

LATENT, PICTURE, TOKENS = 8, 16, 20


def sd15(folder, *, seed=0):
    """Write a full SD 1.5-like checkpoint; return its folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {"unet": _unet(), "vae": _vae(), "text_encoder": _text_encoder(16)}
        return _save("StableDiffusionPipeline", folder, parts, pads=("<|endoftext|>",))


def sd21(folder, *, seed=0):
    """Write a full SD 2.1-like checkpoint: wider context, linear projections, heads by block."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = _unet(cross_attention_dim=24, use_linear_projection=True, attention_head_dim=[2, 4])
        parts = {"unet": unet, "vae": _vae(), "text_encoder": _text_encoder(24, hidden_act="gelu")}
        return _save("StableDiffusionPipeline", folder, parts, pads=("!",))


def sdxl(folder, *, seed=0, force_zeros=True, projection=20):
    """Write a full SDXL-like checkpoint: two tokenizers and text encoders, pooled text and time ids."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = _unet(
            cross_attention_dim=16 + 24,
            use_linear_projection=True,
            attention_head_dim=[2, 4],
            transformer_layers_per_block=[1, 2],
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + projection,
        )
        parts = {
            "unet": unet,
            "vae": _vae(scaling_factor=0.13025, force_upcast=True),
            "text_encoder": _text_encoder(16),
            "text_encoder_2": _text_encoder(24, hidden_act="gelu", projection_dim=projection),
        }
        pads = ("<|endoftext|>", "!")
        return _save("StableDiffusionXLPipeline", folder, parts, pads=pads, force_zeros_for_empty_prompt=force_zeros)


def flux(folder, *, seed=0, guidance=False, t5=True):
    """Write a full FLUX.1-like checkpoint: packed latents, CLIP's pooled text and T5's tokens, or CLIP's without T5."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=24 if t5 else 16,
            pooled_projection_dim=16,
            axes_dims_rope=(2, 2, 4),
            guidance_embeds=guidance,
        )
        vae = _vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
        text = {"text_encoder": _text_encoder(16)} | ({"text_encoder_2": _t5(24)} if t5 else {})
        parts = {"transformer": transformer, "vae": vae, **text}
        folder = _save("FluxPipeline", folder, parts, pads=("<|endoftext|>",))
    if t5:
        _t5_tokenizer().save_pretrained(folder / "tokenizer_2")
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"tokenizer_2": ["transformers", "T5TokenizerFast"]}
    index |= {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def sd3(folder, *, seed=0):
    """Write a full Stable Diffusion 3-like checkpoint: three text encoders, latents of four channels."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=LATENT,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=48,
            caption_projection_dim=16,
            pooled_projection_dim=16 + 20,
            pos_embed_max_size=LATENT,
        )
        parts = {
            "transformer": transformer,
            "vae": _vae(scaling_factor=1.5305, shift_factor=0.0609),
            "text_encoder": _text_encoder(16, projection_dim=16),
            "text_encoder_2": _text_encoder(24, projection_dim=20),
            "text_encoder_3": _t5(48),
        }
        folder = _save("StableDiffusion3Pipeline", folder, parts, pads=("<|endoftext|>", "!"))
    _t5_tokenizer().save_pretrained(folder / "tokenizer_3")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"tokenizer_3": ["transformers", "T5TokenizerFast"]}
    index |= {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def lcm_unet(folder, *, seed=3):
    """Write a folder with a full LCM UNet of SD 1.5's shape in `unet` and nothing else; guidance is an embedding."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _unet(time_cond_proj_dim=8).save_pretrained(Path(folder) / "unet")
    return Path(folder)


def tiny_decoder(folder, *, seed=6, **more):
    """Write a small autoencoder of the same latents and pictures, as TAESD is; return its folder."""
    from diffusers import AutoencoderTiny

    widths = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    counts = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoencoderTiny(**(widths | counts | more)).save_pretrained(folder)
    return Path(folder)


def lora(checkpoint, path, *, rank=2, alpha=1.0, seed=1, style="kohya", convolutions=True):
    """Write a LoRA for every attention projection, feed-forward layer and (if asked) resnet convolution of a UNet.

    `style` is "kohya" (`lora_unet_..._to_q.lora_down.weight`, `.alpha`), "diffusers" (`unet....to_q.lora_A.weight`) or
    "diffusers-old" (`unet....to_q.lora.down.weight`). Returns the path.
    """
    from safetensors.torch import save_file
    from torch import nn

    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, module in load_unet(checkpoint).named_modules():
        conv = isinstance(module, nn.Conv2d) and ("conv1" in name or "proj_in" in name)
        if not (isinstance(module, nn.Linear) and "attentions" in name) and not (conv and convolutions):
            continue
        kernel = module.kernel_size if conv else ()
        inner, outer = module.weight.shape[1], module.weight.shape[0]
        down = torch.randn(rank, inner, *kernel, generator=generator) * 0.2
        up = torch.randn(outer, rank, *([1] * len(kernel)), generator=generator) * 0.2
        if style == "kohya":
            flat = "lora_unet_" + name.replace(".", "_")
            weights |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
            weights[f"{flat}.alpha"] = torch.tensor(float(alpha))
        else:
            below, above = ("lora_A", "lora_B") if style == "diffusers" else ("lora.down", "lora.up")
            weights |= {f"unet.{name}.{below}.weight": down, f"unet.{name}.{above}.weight": up}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    return Path(path)


def delta(checkpoint, path, *, seed=2, size=0.05):
    """Write random delta weights, one tensor for each of a UNet's, as PeRFlow publishes them. Returns the path."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    weights = load_unet(checkpoint).state_dict()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.randn(w.shape, generator=generator) * size for name, w in weights.items()}, path)
    return Path(path)


def ip_adapter(folder, checkpoint, *, seed=4, embedding=12, tokens=4):
    """Write an IP-Adapter for a checkpoint, `ip-adapter.safetensors`, and its CLIP image encoder, `image_encoder`.

    Returns the folder.
    """
    from safetensors.torch import save_file
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    unet = load_unet(checkpoint)
    width = unet.config.cross_attention_dim
    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=16,
                patch_size=8,
                projection_dim=embedding,
            )
        )
        weights = {
            "image_proj.proj.weight": torch.randn(tokens * width, embedding) * 0.3,
            "image_proj.proj.bias": torch.randn(tokens * width) * 0.1,
            "image_proj.norm.weight": torch.ones(width),
            "image_proj.norm.bias": torch.zeros(width),
        }
        modules = dict(unet.named_modules())
        # Adapters number all attentions in the UNet's order; only cross-attentions, the odd ones, have keys.
        crossing = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
        for i, name in enumerate(crossing):
            hidden = modules[name.removesuffix(".processor")].to_q.weight.shape[0]
            for key in ("to_k_ip", "to_v_ip"):
                weights[f"ip_adapter.{2 * i + 1}.{key}.weight"] = torch.randn(hidden, width) * 0.3
    encoder.save_pretrained(folder / "image_encoder")
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(
        folder / "image_encoder"
    )
    save_file(weights, folder / "ip-adapter.safetensors")
    return folder


def cached(cache, name):
    """Make the folder that stands for a repository in a Hub cache; return it."""
    repository = Path(cache) / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    folder = repository / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    return folder


def stand_in(kind, name, cache):
    """Put a tiny checkpoint where code expects a published one: in a Hub cache, or at a local path.

    LoRAs, deltas and adapters are made for SD 1.5; SDXL's PeRFlow gets the variant its authors publish.
    """
    folder = cached(cache, name) if "/" in name else Path(name)
    if kind == "flux2":
        import tiny_flows  # which builds on this

        tiny_flows.flux2(folder)
        return
    if kind in ("sd15", "sd21", "sdxl"):
        globals()[kind](folder)
        if "perflow-sdxl" in name:
            for path in folder.rglob("*.safetensors"):
                path.rename(path.with_suffix(".v0-fix.safetensors"))
        return
    with tempfile.TemporaryDirectory() as base:
        sd15(base)
        if kind == "delta":
            delta(base, folder / "diffusion_pytorch_model.v0-1.safetensors")
        else:
            {"lora": lambda: lora(base, folder), "ip_adapter": lambda: ip_adapter(folder, base)}[kind]()


def load_unet(checkpoint):
    """Load the UNet of a checkpoint's folder, in float32."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(Path(checkpoint) / "unet")


def _unet(**more):
    from diffusers import UNet2DConditionModel

    options = {
        "sample_size": LATENT,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**(options | more))


def _vae(**more):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=[8, 8],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        norm_num_groups=4,
        sample_size=PICTURE,
        **more,
    )


def _text_encoder(width, *, projection_dim=None, **more):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    vocabulary = _vocabulary()
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        projection_dim=projection_dim or width,
        **more,
    )
    return (CLIPTextModelWithProjection if projection_dim else CLIPTextModel)(config)


def _t5(width):
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": width, "d_ff": 2 * width, "d_kv": 8, "num_heads": 2, "num_layers": 2}
    return T5EncoderModel(T5Config(vocab_size=len(_t5_pieces()), feed_forward_proj="gated-gelu", **sizes))


def _t5_pieces():
    letters = [chr(c) for c in range(97, 123)]
    return [(piece, -2.0) for piece in ("<pad>", "</s>", "<unk>", "\u2581", *letters)]


def _t5_tokenizer():
    """T5's tokenizer with letters for pieces."""
    from transformers import T5TokenizerFast

    return T5TokenizerFast(vocab=_t5_pieces(), extra_ids=0, model_max_length=TOKENS)


def _vocabulary():
    letters = ["!", *(chr(c) for c in range(97, 123))]
    tokens = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}


def _tokenizer(folder, pad):
    """Write the four files of CLIP's tokenizer: letters only, no merges."""
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(_vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special["pad_token"] = pad
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _save(pipeline, folder, parts, *, pads, **config):
    from diffusers import DDIMScheduler

    folder = Path(folder)
    index = {"_class_name": pipeline, "_diffusers_version": "0.30.0", **config}
    for name, network in parts.items():
        network.save_pretrained(folder / name)
        index[name] = ["transformers" if name.startswith("text") else "diffusers", type(network).__name__]
    for i, pad in enumerate(pads):
        name = f"tokenizer_{i + 1}" if i else "tokenizer"
        _tokenizer(folder / name, pad)
        index[name] = ["transformers", "CLIPTokenizer"]
    DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    ).save_pretrained(folder / "scheduler")
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    if pipeline == "StableDiffusionPipeline":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder
