"""Tiny random checkpoints of flow-matching models in the true layout: every function writes one and returns its folder.

Text encoders are those of the models with a layer or two, tokenizers theirs with a character a token.
"""

import json
from pathlib import Path

import torch

from tiny import _vae

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)
WORDS = 700
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def z_image(folder, *, seed=0):
    """Z-Image: lists of images and texts, texts of Qwen3."""
    from diffusers import ZImageTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=16,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[4, 2, 2],
            axes_lens=[1024, 32, 32],
        )
        for pad in (transformer.x_pad_token, transformer.cap_pad_token):
            torch.nn.init.normal_(pad)  # published ones are learnt
        vae = _vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
        parts = {"transformer": transformer, "vae": vae, "text_encoder": _qwen3(16, layers=2)}
    return _save("ZImagePipeline", folder, parts, {"tokenizer": _qwen_tokenizer()}, shift=3.0)


def flux2(folder, *, seed=0, distilled=True):
    """FLUX.2-klein: folded latents, normalised by running statistics, hidden states 9, 18 and 27 of Qwen3."""
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=3 * 16,
            timestep_guidance_channels=16,
            axes_dims_rope=(2, 2, 2, 2),
            guidance_embeds=False,
        )
        vae = AutoencoderKLFlux2(
            block_out_channels=[8] * 4,  # as published, 8x8 pixels a latent, which the grid counts on
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=32,
        )
        vae.bn.running_mean.normal_(0, 0.3)
        vae.bn.running_var.uniform_(0.5, 2.0)
        parts = {"transformer": transformer, "vae": vae, "text_encoder": _qwen3(16, layers=28)}
    return _save(
        "Flux2KleinPipeline",
        folder,
        parts,
        {"tokenizer": _qwen_tokenizer()},
        index={"is_distilled": distilled},
        use_dynamic_shifting=True,
        time_shift_type="exponential",
        shift=3.0,
    )


def sana(folder, *, seed=0):
    """SANA-Sprint: linear attention, an autoencoder of 32x32 pixels a latent, text of Gemma behind an instruction."""
    from diffusers import AutoencoderDC, SanaTransformer2DModel, SCMScheduler

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            sample_size=2,
            guidance_embeds=True,
            qk_norm="rms_norm_across_heads",
        )
        vae = AutoencoderDC(
            latent_channels=4,
            attention_head_dim=4,
            encoder_block_types=["ResBlock"] * 6,
            decoder_block_types=["ResBlock"] * 5 + ["EfficientViTBlock"],
            encoder_block_out_channels=[8] * 6,
            decoder_block_out_channels=[8] * 6,
            encoder_layers_per_block=[1] * 6,
            decoder_layers_per_block=[1] * 6,
            encoder_qkv_multiscales=[[]] * 6,
            decoder_qkv_multiscales=[[]] * 5 + [[5]],
            scaling_factor=0.41407,
        )
        parts = {"transformer": transformer, "vae": vae, "text_encoder": _gemma(16)}
    return _save(
        "SanaSprintPipeline", folder, parts, {"tokenizer": _gemma_tokenizer()}, scheduler=SCMScheduler(sigma_data=0.5)
    )


def qwen_image(folder, *, seed=0):
    """Qwen-Image: packed latents of a video autoencoder, text of Qwen2.5-VL."""
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(2, 2, 4),
        )
        vae = AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.0, 0.7, 1.3, 2.0],
        )
        parts = {"transformer": transformer, "vae": vae, "text_encoder": _qwen25(16)}
    return _save(
        "QwenImagePipeline",
        folder,
        parts,
        {"tokenizer": _qwen_tokenizer()},
        use_dynamic_shifting=True,
        time_shift_type="exponential",
        base_shift=0.5,
        max_shift=0.9,
        max_image_seq_len=8192,
        shift_terminal=0.02,
    )


def _qwen3(width, *, layers):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=300,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            tie_word_embeddings=True,
        )
    )


def _qwen25(width):
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": 300,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
    }
    vision = {"depth": 1, "hidden_size": 8, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": width}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def _gemma(width):
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=WORDS,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
        )
    )


def _qwen_tokenizer():
    """Qwen's tokenizer with bytes for tokens."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocabulary = {token: i for i, token in enumerate([*sorted(ByteLevel.alphabet()), *SPECIAL])}
    made = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    made.chat_template = CHAT
    return made


def _gemma_tokenizer():
    """Gemma's tokenizer with letters for tokens, and the words of the instruction that comes before a prompt."""
    import inspect

    from diffusers import SanaSprintPipeline
    from tokenizers import Tokenizer, models, trainers
    from transformers import GemmaTokenizerFast

    lines = inspect.signature(SanaSprintPipeline.__call__).parameters["complex_human_instruction"].default
    special, letters = ["<pad>", "<eos>", "<bos>", "<unk>"], [chr(i) for i in range(33, 127)]
    trained = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, special_tokens=special, initial_alphabet=["\u2581", "\n", *letters], show_progress=False
    )
    words = [word for line in lines for word in line.replace(" ", " \u2581").split(" ")]
    trained.train_from_iterator(words, trainer)
    model = json.loads(trained.to_str())["model"]
    return GemmaTokenizerFast(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])


def _save(pipeline, folder, parts, tokenizers, *, scheduler=None, index=None, **grid):
    from diffusers import FlowMatchEulerDiscreteScheduler

    folder, scheduler = Path(folder), scheduler or FlowMatchEulerDiscreteScheduler(**grid)
    named = {"_class_name": pipeline, "_diffusers_version": "0.42.0", **(index or {})}
    for name, part in (parts | tokenizers | {"scheduler": scheduler}).items():
        part.save_pretrained(folder / name)
        library = "transformers" if name.startswith(("text", "token")) else "diffusers"
        named[name] = [library, type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(named, indent=2))
    return folder
