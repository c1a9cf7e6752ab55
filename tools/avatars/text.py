"""Builds the tokenizer from the world's captions and trains the text encoder to tell attributes apart.

    python tools/avatars/text.py

A text encoder that already separates "red shirt, blue background" from "blue shirt, red background" spares the teacher
thousands of steps; the teacher then goes on training it.
"""

from __future__ import annotations

import json
import random

import torch
from tokenizers import pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import world
from common import DATA, step_generator, train

SEED = 2
BATCH = 256
MAX_LENGTH = 24
WIDTH = 128
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def _portraits(count: int, seed: str) -> tuple[list[world.Portrait], random.Random]:
    rng = random.Random(seed)
    return [world.sample_portrait(rng, 0) for _ in range(count)], rng


def build_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding in CLIP's layout: every byte, every byte ending a word, the merges of the captions."""
    portraits, rng = _portraits(20_000, "guideflow tokenizer")
    backend = CLIPTokenizer().backend_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2000, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator((world.caption(p, rng) for p in portraits), trainer)
    merges = [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(byte + "</w>" for byte in alphabet), *("".join(merge) for merge in merges), BOS, EOS]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)


def build_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of width 128, in CLIP's layout."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids, (len(texts), 24)."""
    return tokenizer(texts, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt").input_ids


def main() -> None:
    """Command line."""
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    encoder = build_encoder(tokenizer)
    head = nn.Linear(WIDTH, sum(len(words) for words in world.LABELS.values()))
    portraits, rng = _portraits(20_000, "guideflow text")
    texts = [world.caption(p, rng) for p in portraits]
    ids = tokenize(tokenizer, texts)
    labels = torch.tensor([[p.labels[key] for key in world.LABELS] for p in portraits])
    said = torch.tensor(
        [[_says(p, key, text) for key in world.LABELS] for p, text in zip(portraits, texts, strict=True)]
    )

    def loss_of_step(step: int) -> Tensor:
        chosen = torch.randint(len(ids), (BATCH,), generator=step_generator(SEED, step))
        logits = head(encoder(ids[chosen]).last_hidden_state.mean(1)).split([len(w) for w in world.LABELS.values()], 1)
        losses = [
            F.cross_entropy(x, labels[chosen, i].where(said[chosen, i], torch.tensor(-100)))
            for i, x in enumerate(logits)
        ]
        return torch.stack(losses).sum()

    trained = train("text", {"encoder": encoder, "head": head}, loss_of_step, steps=400, learning_rate=2e-3, ema=0.98)
    tokenizer.save_pretrained(DATA / "text" / "tokenizer")
    trained["encoder"].save_pretrained(DATA / "text" / "encoder")


def _says(portrait: world.Portrait, key: str, text: str) -> bool:
    phrase = {
        "background": f"{portrait.background} background",
        "colour": f"{portrait.colour} {portrait.clothes}",
        "clothes": portrait.clothes,
        "expression": portrait.expression,
    }
    return phrase[key] in text


if __name__ == "__main__":
    main()
