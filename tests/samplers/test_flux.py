"""FLUX.1-schnell by name, against the published pipeline with its published scheduler."""

import inspect
import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import guideflow as gf
import guideflow_diffusers as families
import tiny
from guideflow.memory import kept_bytes
from guideflow.testing import check_sampler
from guideflow_diffusers.flux import pack
from pipelines import NEGATIVES, distance, draw, initial, load, published

SIZE = {"height": 16, "width": 24, "max_sequence_length": 20}
OWN = {"image_size": (16, 24), "max_sequence_length": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="module")
def pipe(folder):
    return load(folder)


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_picture_is_that_of_the_pipeline(folder, pipe, steps, scale):
    sampler = gf.load_sampler("flux-schnell", checkpoint=folder, num_steps=steps, guidance_scale=scale, **OWN)
    options = {"num_inference_steps": steps, "true_cfg_scale": scale, **SIZE}
    for negatives in (NEGATIVES, None) if scale > 1 else (None,):
        found = draw(sampler, negatives=negatives)
        assert distance(found, published(pipe, sampler, negatives=negatives, pack=pack, **options)) < 1e-5
        assert distance(draw(sampler, negatives=negatives, prompts=["a cat", "two dog"]), found) > 1e-4


def test_negative_prompts_without_guidance_are_told(folder):
    with pytest.warns(UserWarning, match="no effect at guidance_scale"):
        gf.load_sampler("flux-schnell", checkpoint=folder, **OWN).condition(["a"], ["b"])


def test_the_schedule_is_the_pipelines(pipe):
    found = families.from_pipeline(pipe, num_inference_steps=5, **SIZE).schedule
    for column in ("times", "state", "output", "noise"):
        assert getattr(found, column) == pytest.approx(getattr(families.flux_schedule(5), column), rel=1e-6)


def test_conforms(folder):
    load = families.FLOWS["flux-schnell"]
    check_sampler(lambda: load(checkpoint=folder, num_steps=2, dtype="float64", **OWN), prompts=("a cat", "a dog", "c"))


def test_checkpointing_keeps_less_and_gives_the_same_gradient(folder):
    sampler = gf.load_sampler("flux-schnell", checkpoint=folder, dtype="float64", **OWN)
    condition, row = sampler.condition(["a cat"]), sampler.schedule[0]
    z = initial(sampler, 1).requires_grad_()

    def velocity():
        return sampler.predict(z, row, condition)

    def gradient():
        return torch.autograd.grad(velocity().square().sum(), z)[0]

    (_, kept), wanted = kept_bytes(velocity), gradient()
    with sampler.checkpointing(True):
        (_, less), found = kept_bytes(velocity), gradient()
    assert less < kept / 3
    assert distance(found, wanted) < 1e-12


def test_a_transformer_by_itself_and_a_base(folder, tmp_path):
    other = tiny.flux(tmp_path / "other", seed=1)
    shutil.copytree(other / "transformer", tmp_path / "alone" / "transformer")
    alone = gf.load_sampler("flux-schnell", checkpoint=tmp_path / "alone", base=folder, **OWN)
    parts = {**load(folder).components, "transformer": load(other).transformer}
    import diffusers

    pipe = diffusers.FluxPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    wanted = published(pipe, alone, negatives=None, pack=pack, num_inference_steps=4, **SIZE)
    assert distance(draw(alone, negatives=None), wanted) < 1e-5


def test_a_lora(folder, tmp_path):
    generator, weights, pipe = torch.Generator().manual_seed(0), {}, load(folder)
    for name, module in pipe.transformer.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(("to_q", "proj_mlp")):
            rows, columns = module.weight.shape
            weights[f"transformer.{name}.lora_A.weight"] = torch.randn(2, columns, generator=generator) * 0.2
            weights[f"transformer.{name}.lora_B.weight"] = torch.randn(rows, 2, generator=generator) * 0.2
    save_file(weights, tmp_path / "lora.safetensors")
    pipe.load_lora_weights(tmp_path / "lora.safetensors", adapter_name="one")
    pipe.set_adapters("one", 0.5)
    options = {"checkpoint": folder, "num_steps": 2, **OWN}
    sampler = gf.load_sampler("flux-schnell", lora=tmp_path / "lora.safetensors", lora_scale=0.5, **options)
    found = draw(sampler, negatives=None)
    assert distance(found, published(pipe, sampler, negatives=None, pack=pack, num_inference_steps=2, **SIZE)) < 1e-5
    assert distance(found, draw(gf.load_sampler("flux-schnell", **options), negatives=None)) > 1e-3


def test_without_t5_the_tokens_are_clips(tmp_path):
    folder = tiny.flux(tmp_path, t5=False)
    sampler = gf.load_sampler("flux-schnell", checkpoint=folder, **OWN)
    condition = sampler.condition(["a cat", "two dogs"])
    ids = sampler.encoder.tokenizer(["a cat", "two dogs"], padding="max_length", max_length=tiny.TOKENS)
    with torch.no_grad():
        wanted = sampler.encoder.text_encoder(torch.tensor(ids["input_ids"]))
    assert torch.equal(condition.text, wanted.last_hidden_state)
    assert torch.equal(condition.pooled, wanted.pooler_output)
    assert draw(sampler, negatives=None).std() > 0.05


def test_a_record_of_ones_own_over_another_base(tmp_path):
    base, student = tiny.sd15(tmp_path / "base"), tiny.flux(tmp_path / "student", t5=False)
    fixed = {"base": base, "variant": None, "lora": None, "lora_scale": 1.0, "max_sequence_length": 20}
    mine = replace(families.FLOWS["flux-schnell"], checkpoint=student / "transformer", base="mine", fixed=fixed)
    sampler = mine(num_steps=3)
    assert (sampler.image_size, sampler.latent_shape, len(sampler.schedule)) == ((16, 16), (4, 8, 8), 3)
    assert "lora" not in inspect.signature(mine).parameters
    solution = gf.solve(sampler, lambda image: image.mean((1, 2, 3)), prompt="a cat", max_iterations=2, candidates=1)
    assert (solution.loss < solution.history["loss"][0]).all()


def test_text_encoders_can_be_dropped(folder):
    options = {"checkpoint": folder, "num_steps": 2, "guidance_scale": 2.0, **OWN}
    kept, dropped = (gf.load_sampler("flux-schnell", keep_text_encoder=keep, **options) for keep in (True, False))
    assert distance(draw(dropped), draw(kept)) < 1e-5
    with pytest.warns(UserWarning, match="loaded again for 'three'"):
        dropped.condition(["three"])


def test_what_a_text_encoder_cannot_read_is_told(folder):
    sampler = gf.load_sampler("flux-schnell", checkpoint=folder, image_size=16, max_sequence_length=8)
    with pytest.warns(UserWarning, match="the text encoder reads"):
        sampler.condition(["a cat on a mat"])


def test_a_checkpoint_of_another_base_is_refused(tmp_path):
    with pytest.raises(gf.GuideflowError, match=r"has a UNet2DConditionModel\. Expected a FluxTransformer2DModel"):
        gf.load_sampler("flux-schnell", checkpoint=tiny.sd15(tmp_path))


def test_options_are_those_of_the_schedule_and_of_the_loader_each_described():
    family = families.FLOWS["flux-schnell"]
    options = inspect.signature(family).parameters
    described = re.findall(r"^    (\w+): \S", inspect.getdoc(family), re.MULTILINE)
    assert set(described) - {"schedule"} == set(options)
    assert options["checkpoint"].default == "black-forest-labs/FLUX.1-schnell"


def test_what_info_tells():
    entry = families.FLOWS["flux-schnell"].entry(**families.family_weights(families.FLOWS["flux-schnell"]))
    assert (entry.base, entry.licence) == ("FLUX.1", "Apache-2.0")
    assert 33e9 < entry.downloads[0].size < 35e9
    assert any(name.startswith("transformer/") for name in entry.downloads[0].files)
    assert entry.footprint.bytes("bfloat16")[0] > 33e9
