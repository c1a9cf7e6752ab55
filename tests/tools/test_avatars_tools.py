"""The recipes behind the avatars world: what is held out stays held out, and training goes on where it stopped."""

import importlib.util
import random
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import guideflow as gf
import guideflow_avatars as avatars
from guideflow_avatars import judges
from guideflow_avatars.words import WORDS, asked_attributes

TOOLS = Path(__file__).parents[2] / "tools" / "avatars"


def load(name, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    spec = importlib.util.spec_from_file_location(f"avatars_tools_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def world(monkeypatch):
    return load("world", monkeypatch)


def test_every_person_is_in_one_part_only(world):
    parts = [set(part) for part in world.IDENTITIES_OF.values()]
    assert sum(map(len, parts)) == len(world.IDENTITIES) == len(set.union(*parts))
    shares = {name: len(part) / len(world.IDENTITIES) for name, part in world.IDENTITIES_OF.items()}
    assert shares == pytest.approx({"heldout": 0.2, "guidance": 0.4, "evaluation": 0.4}, abs=0.02)


def test_held_out_prompts_are_never_drawn_for_training(world):
    rng = random.Random(0)
    drawn = [world.sample_portrait(rng, 0) for _ in range(3000)]
    assert not any(world.is_heldout_prompt(p.clothes, p.colour, p.background) for p in drawn)
    held = [world.sample_portrait(rng, 0, heldout_prompt=True) for _ in range(100)]
    assert all(world.is_heldout_prompt(p.clothes, p.colour, p.background) for p in held)


def test_captions_name_what_is_in_the_picture_and_a_prompt_is_read_as_it_was_meant(world, monkeypatch):
    captions, rng = load("captions", monkeypatch), random.Random(1)
    texts = set()
    for person in rng.choices(range(len(world.IDENTITIES)), k=600):
        portrait = world.sample_portrait(rng, person)
        text, named = captions.varied(portrait.words, rng)
        assert asked_attributes(text) == {name: portrait.words[name] for name in named}, text
        plain = asked_attributes(captions.plain(portrait))
        assert plain == {name: portrait.words[name] for name in ("background", "colour", "clothes", "expression")}
        texts.add(text)
    assert len(texts) > 500


def test_prompts_that_generators_are_measured_by_are_read_as_they_were_meant(monkeypatch):
    prompts = load("prompts", monkeypatch)
    for text, asked in (*prompts.TYPED, *prompts.with_unknown(prompts.held_out(40))):
        assert asked_attributes(text) == asked, text


def test_the_judge_sees_all_ten_attributes_of_people_that_no_network_knows(monkeypatch):
    portraits = load("portraits", monkeypatch)
    said = {name: portraits.portrait(name).words for name in avatars.portraits()}
    texts = []
    for words in said.values():
        wording = {name: WORDS[name][word][0] for name, word in words.items()}
        hair = f"{wording['rear hair']} {wording['hair colour']} hair, {wording['hair']}"
        face = f"{wording['expression']}, {wording['skin']} skin, {wording['beard']}, {wording['eyes']}"
        texts.append(f"{face}, {hair}, {words['colour']} {words['clothes']}, {words['background']} background")
        assert asked_attributes(texts[-1]) == words
    images = torch.cat([gf.images.read_image(avatars.portrait(name)) for name in said])
    assert judges.prompt_accuracy(images, texts, tuple(WORDS)).mean() > 0.9
    assert judges.prompt_accuracy(images, texts[1:] + texts[:1], tuple(WORDS)).mean() < 0.6


def test_interrupted_training_equals_uninterrupted(monkeypatch, tmp_path):
    common = load("common", monkeypatch)
    monkeypatch.setattr(common, "DATA", tmp_path)

    class Interrupted(Exception):
        pass

    def train(name, stop=None):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

        def loss_of_step(step):
            if step == stop:
                raise Interrupted
            x = torch.randn(16, 4, generator=common.step_generator(1, step))
            return (network(x) - x.sum(1, keepdim=True)).square().mean()

        return common.train(
            name, {"network": network}, loss_of_step, steps=40, learning_rate=1e-2, warmup=5, save_every=0.0
        )["network"].state_dict()

    whole = train("whole")
    with pytest.raises(Interrupted):
        train("parts", stop=23)
    parts = train("parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.fixture
def students(monkeypatch):
    return load("students", monkeypatch)


def test_a_saved_lora_is_what_was_trained(students, monkeypatch, tmp_path):
    import tiny
    from guideflow_diffusers.lora import Weights, merge_lora

    checkpoint = tiny.sd15(tmp_path / "sd15")
    network = tiny.load_unet(checkpoint)
    lora = students.LowRank(network, rank=4, seed=0)
    with torch.no_grad():
        for up in lora.up:
            up.normal_(std=0.05)
    monkeypatch.setattr(students, "WEIGHTS", tmp_path)
    lora.save("family")
    loaded = tiny.load_unet(checkpoint)
    merge_lora({"unet": loaded}, Weights([tmp_path / "family" / students.FILE]))
    wanted = dict(network.named_parameters()) | lora.weights()
    for name, found in loaded.named_parameters():
        torch.testing.assert_close(found, wanted[name], atol=2e-3, rtol=2e-3, msg=name)  # stored in float16
    assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), loaded.parameters(), strict=True))


def test_low_contrast_counts_most(monkeypatch):
    autoencoder = load("autoencoder", monkeypatch)
    flat, faint, strong = (torch.full((1, 3, 16, 16), 0.5) for _ in range(3))
    faint[..., 8:] += 0.3
    strong[..., 8:] -= 1.4
    weights = [autoencoder.care(x)[..., 8, 8].item() for x in (flat, faint, strong)]
    assert weights[1] > weights[2] > weights[0] >= 1
