"""Tiny random CLIP checkpoints on disk, in the layouts in which open_clip publishes its own."""

import copy
import json

import open_clip
import torch
from safetensors.torch import save_file

VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
RESNET = {**VIT, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}}
PREPROCESS = {
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def network(config=VIT, quick_gelu=False):
    """A random network, the same every time, whose pictures all differ."""
    torch.manual_seed(0)
    made = open_clip.CLIP(**copy.deepcopy(config), quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        for one in made.parameters():
            if one.dim() > 1:
                one.mul_(1.5)
    return made


def weights(made, path):
    """Write the weights of a network as safetensors."""
    save_file({key: value.contiguous() for key, value in made.state_dict().items()}, path)
    return path


def folder(path, config=VIT, quick_gelu=False):
    """Write a folder as on the Hub, and return it with the network."""
    path.mkdir(parents=True, exist_ok=True)
    made = network(config, quick_gelu)
    model = {**config, "quick_gelu": True} if quick_gelu else config
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": PREPROCESS}))
    weights(made, path / "open_clip_model.safetensors")
    return path, made


def register(monkeypatch, tags=None):
    """Make `tiny` and `tiny-quickgelu` built-in names with published weights `{tag: (file, quick_gelu)}`."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", copy.deepcopy(VIT))
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-quickgelu", {**copy.deepcopy(VIT), "quick_gelu": True})
    published = {
        tag: {**PREPROCESS, "file": str(file), "hf_hub": "someone/tiny/", "quick_gelu": quick}
        for tag, (file, quick) in (tags or {}).items()
    }
    for name in ("tiny", "tiny-quickgelu"):
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, published)
