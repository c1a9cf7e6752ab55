"""Samplers that drop their text encoders after use."""

import pytest
import torch

import guideflow as gf
from guideflow_diffusers import text_parts
from guideflow_diffusers.text import Condition
from guideflow_diffusers.text_parts import TextOnDemand
from pipelines import NEGATIVES, distance, draw


@pytest.mark.parametrize(("name", "base"), [("lcm", "sd15"), ("lcm", "sdxl"), ("sdxl-turbo", "sdxl")])
def test_of_stable_diffusion(tiny_folders, name, base):
    options = {"checkpoint": tiny_folders[base], "num_steps": 2, "guidance_scale": 2.0, "image_size": 16}
    kept, dropped = (gf.load_sampler(name, keep_text_encoder=keep, **options) for keep in (True, False))
    assert dropped.parts.text_encoder is None and dropped.parts.base == kept.parts.base
    assert distance(draw(dropped), draw(kept)) < 1e-5
    with pytest.warns(UserWarning, match=r"keep_text_encoder=False\) and are loaded again for 'three'"):
        found = dropped.condition(["three", "a cat"], ["", "bad"])
    wanted = kept.condition(["three", "a cat"], ["", "bad"])
    assert (found.text - wanted.text).abs().max() < 1e-5
    assert (found.negative - wanted.negative).abs().max() < 1e-5
    more = {"prompt": "a cat", "negative_prompt": "bad", "seed": [0, 1], "max_iterations": 1, "candidates": 2}
    assert len(gf.solve(dropped, lambda image: image.mean((1, 2, 3)), **more).images) == 2


def test_a_lora_is_in_the_encoders_that_are_loaded_again(tiny_folders, tmp_path):
    import tiny

    lora = tiny.lora(tiny_folders["sd15"], tmp_path / "lora.safetensors")
    options = {"checkpoint": tiny_folders["sd15"], "lora": lora, "num_steps": 2}
    kept, dropped = (gf.load_sampler("lcm", keep_text_encoder=keep, **options) for keep in (True, False))
    assert distance(draw(dropped, negatives=None), draw(kept, negatives=None)) < 1e-5


class Encoder:
    """Encodes a prompt as its length and its first letter, a token for each letter."""

    def __init__(self):
        self.networks = {"text_encoder": torch.nn.Linear(1, 1), "text_encoder_2": None}

    def __call__(self, prompts, negative_prompts, *, guided=False):
        def rows(texts):
            made = torch.zeros(len(texts), max(map(len, texts)), 1)
            for i, text in enumerate(texts):
                made[i, : len(text), 0] = torch.tensor([*map(ord, text)])
            return made, made[..., 0] > 0

        text, mask = rows(prompts)
        if not guided:
            return Condition(text, pooled=text.sum(1), mask=mask)
        negative, negative_mask = rows(negative_prompts or ["-"] * len(prompts))
        return Condition(text, negative, text.sum(1), negative.sum(1), mask, negative_mask)


def test_rows_are_kept_without_padding(monkeypatch):
    monkeypatch.setattr(text_parts, "_KEPT", 3)
    loads = []
    demand = TextOnDemand(lambda: loads.append(1) or Encoder(), torch.device("cpu"))
    first = demand(["long one", "ab"], NEGATIVES, guided=True)
    assert first.text.shape == (2, 8, 1) and first.mask.sum(1).tolist() == [8, 2]
    short = demand(["ab"], NEGATIVES[1:], guided=True)
    assert len(loads) == 1 and short.text.shape == (1, 2, 1) and short.negative.shape == (1, 5, 1)
    both = first.both()
    assert both.text.shape == (4, 8, 1) and both.mask.sum(1).tolist() == [3, 5, 8, 2]
    with pytest.warns(UserWarning, match="loaded again for 'x'"):
        demand(["x", "y"], None, guided=True)
    with pytest.warns(UserWarning, match="loaded again for 'long one'"):  # the oldest of more than three is forgotten
        demand(["long one"], NEGATIVES[:1], guided=True)
    assert len(loads) == 3


def test_without_room_on_the_device_the_cpu_encodes(monkeypatch):
    monkeypatch.setattr(text_parts, "available_bytes", lambda device: 0.0)
    seen, encoder = [], Encoder()
    monkeypatch.setattr(encoder.networks["text_encoder"], "to", seen.append)
    found = TextOnDemand(lambda: encoder, torch.device("meta"))(["a"], None)
    assert seen == [torch.device("cpu")] and found.text.device.type == "meta"
