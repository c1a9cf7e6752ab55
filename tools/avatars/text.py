"""Builds the tokenizer from the world's captions and trains the text encoder to tell attributes apart.

    python tools/avatars/text.py

A text encoder that already separates "red shirt, blue background" from "blue shirt, red background" spares the teacher
thousands of steps; the teacher then goes on training it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
from pathlib import Path

import numpy
import torch
from tokenizers import pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import captions
import world
from common import DATA, DEVICE, autocast, step_generator, train

SEED = 2
BATCH = 512
MAX_LENGTH = 48
WIDTH = 128
WORDINGS = 8  # captions a picture is trained with
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
FOLDER = DATA / "text"


def wordings(count: int, seed: str) -> tuple[list[str], list[tuple[str, ...]], list[dict[str, int]]]:
    """Captions of random portraits, the attributes that each names, and the labels of all."""
    rng = random.Random(seed)
    portraits = [world.sample_portrait(rng, rng.randrange(len(world.IDENTITIES))) for _ in range(count)]
    texts, named = zip(*(captions.varied(p.words, rng) for p in portraits), strict=True)
    return list(texts), list(named), [p.labels for p in portraits]


def build_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding in CLIP's layout: every byte, every byte ending a word, the merges of the captions."""
    backend = CLIPTokenizer().backend_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2000, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(wordings(20_000, "guideflow tokenizer")[0], trainer)
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
    """Token ids on the device, (len(texts), 48)."""
    found = tokenizer(texts, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="np")
    return torch.from_numpy(found.input_ids.astype(numpy.int64)).to(DEVICE)


def _rewrite(part: tuple[int, list[dict[str, str]]]) -> list[str]:
    number, people = part
    rng = random.Random(f"guideflow wordings {number}")
    return [captions.varied(words, rng)[0] for words in people for _ in range(WORDINGS)]


def load_caption_ids(tokenizer: CLIPTokenizer) -> Tensor:
    """Token ids of several wordings of every training picture, (N, WORDINGS, 48); cached on disk."""
    path = DATA / "train" / "caption-ids.npy"
    if not path.exists():
        labels = numpy.load(DATA / "train" / "labels.npz")
        columns = [[world.LABELS[key][i] for i in labels[key]] for key in world.LABELS]
        people = [dict(zip(world.LABELS, row, strict=True)) for row in zip(*columns, strict=True)]
        parts = [(i, people[i : i + 500]) for i in range(0, len(people), 500)]
        with multiprocessing.get_context("spawn").Pool(min(8, os.cpu_count() or 1)) as pool:
            texts = [text for part in pool.map(_rewrite, parts) for text in part]
        ids = [tokenize(tokenizer, texts[i : i + 20_000]).cpu().numpy() for i in range(0, len(texts), 20_000)]
        numpy.save(path, numpy.concatenate(ids).astype(numpy.int16).reshape(-1, WORDINGS, MAX_LENGTH))
    return torch.from_numpy(numpy.load(path)).to(DEVICE).long()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(FOLDER / "tokenizer")
    load_caption_ids(tokenizer)
    encoder = build_encoder(tokenizer).to(DEVICE)
    sizes = [len(words) for words in world.LABELS.values()]
    head = nn.Linear(WIDTH, sum(sizes)).to(DEVICE)
    texts, named, labels = wordings(60_000, "guideflow text")
    ids = tokenize(tokenizer, texts)
    # What a caption does not name counts for nothing.
    wanted = torch.tensor(
        [[y[key] if key in said else -100 for key in world.LABELS] for y, said in zip(labels, named, strict=True)]
    ).to(DEVICE)

    def loss_of_step(step: int) -> Tensor:
        chosen = torch.randint(len(ids), (BATCH,), generator=step_generator(SEED, step), device=DEVICE)
        with autocast():
            logits = head(encoder(ids[chosen]).last_hidden_state.mean(1)).float().split(sizes, 1)
        return sum(F.cross_entropy(x, wanted[chosen, i]) for i, x in enumerate(logits))

    trained = train("text", {"encoder": encoder, "head": head}, loss_of_step, steps=steps, learning_rate=2e-3, ema=0.98)
    Path(FOLDER).mkdir(exist_ok=True)
    trained["encoder"].save_pretrained(FOLDER / "encoder")


if __name__ == "__main__":
    main()
