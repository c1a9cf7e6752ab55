"""What text encoders do not read of a prompt is told, in every way to a sampler; and nothing else is."""

import warnings

import pytest

import guideflow as gf
from guideflow_diffusers import from_pipeline
from pipelines import load

LONG = "a cat on a mat " * 30 + "with a purple dragon"
PIPELINES = {  # what a call is told, and one with a negative side
    "sd15": ({}, {"guidance_scale": 3.0}),
    "sdxl": ({}, {"guidance_scale": 3.0}),
    "sd3": ({"max_sequence_length": 40}, {"guidance_scale": 3.0}),
    "z_image": ({"max_sequence_length": 40, "guidance_scale": 0.0}, {"guidance_scale": 3.0}),
    "flux2": ({"max_sequence_length": 40, "height": 32, "width": 32}, None),
    "sana": ({"max_sequence_length": 20, "height": 32, "width": 32, "use_resolution_binning": False}, None),
    "qwen_image": ({"max_sequence_length": 300, "true_cfg_scale": 1.0}, {"true_cfg_scale": 3.0}),
}
FAMILIES = {"z-image-turbo": "z_image", "sana-sprint": "sana", "sd35-medium-turbo": "sd3", "lcm": "sd15"}


def told(condition, *given):
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        condition(*given)
    return [str(one.message) for one in record if "is not seen" in str(one.message)]


@pytest.mark.parametrize("base", PIPELINES)
def test_a_pipeline_tells_what_it_does_not_read(tiny_folders, flow_folders, base):
    pipe = load({**tiny_folders, **flow_folders}[base])
    before, (call, guided) = dict(vars(pipe)), PIPELINES[base]
    sampler = from_pipeline(pipe, num_inference_steps=2, **call)
    assert told(sampler.condition, ["a cat", ""]) == []
    [message] = told(sampler.condition, ["a cat", LONG])
    assert "a mat with a purple dragon' is not seen" in message or "..." in message
    assert "Shorten the prompt 'a cat on a mat" in message
    if guided is not None:
        sampler = from_pipeline(pipe, num_inference_steps=2, **call | guided)
        assert len(told(sampler.condition, ["a cat", "a dog"], [LONG, ""])) == 1
    assert all(vars(pipe)[name] is part for name, part in before.items() if name.startswith("tokenizer"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_tells_what_it_does_not_read(tiny_folders, flow_folders, family):
    base = FAMILIES[family]
    length = {"max_sequence_length": PIPELINES[base][0]["max_sequence_length"]} if base in flow_folders else {}
    sampler = gf.load_sampler(family, checkpoint={**tiny_folders, **flow_folders}[base], **length)
    assert told(sampler.condition, ["a cat", "two dogs"]) == []
    assert len(told(sampler.condition, ["a cat", LONG])) == 1


def test_what_one_encoder_reads_to_its_end_is_seen(flow_folders):
    sampler = from_pipeline(load(flow_folders["sd3"]), num_inference_steps=2, max_sequence_length=256)
    assert told(sampler.condition, ["a cat on a mat " * 8]) == []
