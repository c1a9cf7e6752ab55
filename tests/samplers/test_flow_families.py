"""Every flow-matching family by name draws what its published pipeline and scheduler draw, end to end."""

import functools
import math
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import guideflow as gf
import guideflow_diffusers as families
from family_table import PROMPTS
from guideflow.gradients import MODES
from guideflow.images import to_pil
from guideflow.memory import kept_bytes
from guideflow.registry.weights import CARDS
from guideflow.testing import check_sampler
from guideflow_diffusers import checkpoints
from guideflow_diffusers.flux import pack
from guideflow_diffusers.sizes import family_weights
from pipelines import NEGATIVES, change_scheduler, distance, draw, initial, load, published

EULER, LCM = "FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler"


@dataclass(frozen=True)
class Case:
    """A family, its checkpoint, the scheduler it was published with, and the call of the pipeline that is the same."""

    name: str
    base: str
    steps: tuple = (1, 4)
    scales: tuple = (1.0, 2.5)
    own: dict = field(default_factory=dict)
    scheduler: tuple = ()
    call: object = lambda steps, scale: {"guidance_scale": scale}
    pack: object = lambda z: z
    size: tuple = (16, 24)

    def __str__(self):
        return "-".join([self.name, *map(str, self.own.values())])


def phases(steps):
    """The grid of PCM for Stable Diffusion 3, as its authors' scheduler has it, from its integers."""
    kept = [round(1000 * (1 - 0.02 * (50 * k // steps))) for k in range(steps)]
    return [3 * t / (1000 + 2 * t) for t in kept]


def pcm_call(steps, scale):
    return {"guidance_scale": scale, "sigmas": phases(steps), "num_inference_steps": steps}


def sana_call(steps, scale):
    more = {"intermediate_timesteps": 1.3 if steps == 2 else None, "use_resolution_binning": False}
    return {"guidance_scale": scale, **more}


LIGHTNING = {"base_shift": math.log(3), "max_shift": math.log(3), "shift_terminal": None}
NO_SHIFT = {"shift": 1.0, "use_dynamic_shifting": False}
CASES = [
    Case("sd35-large-turbo", "sd3", scheduler=(EULER, {"shift": 3.0})),
    Case("sd35-medium-turbo", "sd3", (4, 8), (1.0, 1.5), scheduler=(EULER, {"shift": 3.0})),
    Case("pcm-sd3", "sd3", (2, 4), own={"lora": None}, scheduler=(EULER, NO_SHIFT), call=pcm_call),
    Case("pcm-sd3", "sd3", (4,), own={"stochastic": True}, scheduler=(LCM, NO_SHIFT), call=pcm_call),
    Case("z-image-turbo", "z_image", (1, 8), call=lambda steps, scale: {"guidance_scale": scale - 1}),
    Case("flux2-klein", "flux2", scales=(1.0, 1.0), call=lambda steps, scale: {}, size=(32, 48)),
    Case("sana-sprint", "sana", (1, 2, 4), (4.5, 1.0, 4.5), call=sana_call, size=(32, 64)),
    Case(
        "qwen-image-lightning",
        "qwen_image",
        (1, 8),
        scheduler=(EULER, LIGHTNING),
        call=lambda steps, scale: {"true_cfg_scale": scale},
        pack=pack,
    ),
]
MAIN = {case.name: case for case in reversed(CASES)}  # the first of each name
every_model = pytest.mark.parametrize("name", {case.base: case.name for case in reversed(CASES)}.values())
LENGTH = {"sd3": 24, "z_image": 40, "flux2": 40, "sana": 20, "qwen_image": 1024}


@pytest.fixture(scope="session")
def make(flow_folders):
    """Make a sampler of a case; what is on disk is read once for each dtype."""

    @functools.cache
    def made(name, dtype="float32", **options):
        case = MAIN[name]
        given = {"image_size": case.size, "max_sequence_length": LENGTH[case.base], "dtype": dtype}
        return gf.load_sampler(name, checkpoint=flow_folders[case.base], **given, **options)

    return made


@pytest.fixture(scope="session")
def pipe_of(flow_folders):
    return functools.cache(lambda base: load(flow_folders[base]))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_picture_is_that_of_the_published_pipeline(make, pipe_of, case):
    pipe = pipe_of(case.base)
    if case.scheduler:
        change_scheduler(pipe, case.scheduler[0], **case.scheduler[1])
    for steps, scale in zip(case.steps, case.scales, strict=False):
        sampler = make(case.name, num_steps=steps, guidance_scale=scale, **case.own)
        negatives = NEGATIVES if sampler.guidance_scale > 1 else None
        call = {"num_inference_steps": steps, "max_sequence_length": LENGTH[case.base]}
        call |= dict(zip(("height", "width"), case.size, strict=True)) | case.call(steps, scale)
        wanted = published(pipe, sampler, negatives=negatives, pack=case.pack, **call)
        torch.manual_seed(5)
        noises = torch.randn_like if case.scheduler[:1] == (LCM,) else None
        found = draw(sampler, negatives=negatives, noises=noises)
        assert found.min() >= 0 and found.max() <= 1 and wanted.std() > 0.05
        assert distance(found, wanted) < 1e-4
        assert distance(draw(sampler, negatives=negatives, prompts=["a cat", "two dog"], noises=noises), wanted) > 1e-5


def test_every_family_is_compared():
    assert {case.name for case in CASES} | {"flux-schnell"} == set(families.FLOWS)


@every_model
def test_conforms(make, name):
    # Rotary embeddings and linear attention are computed in float32 whatever the dtype.
    sampler = make(name, dtype="float64", num_steps=2, **({"guidance_scale": 1.0} if name != "sana-sprint" else {}))
    check_sampler(lambda: sampler, prompts=("a cat", "a dog", "c"))


@pytest.mark.parametrize("name", ["flux2-klein", "sana-sprint", "z-image-turbo", "qwen-image-lightning"])
def test_gradient_modes_agree(make, name):
    sampler = make(name, dtype="float64", num_steps=2)
    noise, condition = gf.draw_noise(sampler, range(2)), sampler.condition(PROMPTS)
    made = []
    for mode in MODES:
        problem = gf.Problem(sampler, brightness, noise, condition, gradient_mode=mode)
        made.append(problem.rollout(problem.z0, torch.zeros(2, *noise.initial.shape, dtype=torch.float64)))
    for other in made[1:]:
        assert torch.equal(other.images, made[0].images)
        assert (other.gradients - made[0].gradients).norm() < 1e-6 * made[0].gradients.norm()
    assert made[0].gradients.abs().max() > 0


def brightness(image):
    return image.square().mean((1, 2, 3))


@pytest.mark.parametrize("name", ["sana-sprint", "qwen-image-lightning", "z-image-turbo"])
def test_checkpointing_of_what_diffusers_does_not_checkpoint(make, name):
    """The autoencoders of SANA and Qwen-Image, and Z-Image's transformer, whose lists have names of their own."""
    sampler = make(name, dtype="float64", num_steps=2)
    condition, z = sampler.condition(["a cat"]), initial(sampler, 1).requires_grad_()
    decodes = name != "z-image-turbo"

    def value():
        return sampler.decode(z) if decodes else sampler.predict(z, sampler.schedule[0], condition)

    def gradient():
        return torch.autograd.grad(value().square().sum(), z)[0]

    (image, kept), wanted = kept_bytes(value), gradient()
    with sampler.checkpointing(True):
        (same, less), found = kept_bytes(value), gradient()
        again = gradient()
    assert torch.equal(image, same)
    assert less < kept / 2
    assert distance(found, wanted) < 1e-8 * wanted.abs().max() and torch.equal(found, again)


def test_threads_decode_at_the_same_time(make):
    """The autoencoder of Qwen-Image keeps what it saw of a frame for the next, on itself."""
    sampler = make("qwen-image-lightning", num_steps=2)
    states = [torch.randn(1, *sampler.latent_shape, generator=torch.Generator().manual_seed(i)) for i in range(8)]
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        found = list(pool.map(sampler.decode, states * 4))
        wanted = [sampler.decode(z) for z in states] * 4
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


# Text encoders


@every_model
def test_text_encoders_can_be_dropped(make, name):
    kept, dropped = make(name, num_steps=2), make(name, num_steps=2, keep_text_encoder=False)
    negatives = NEGATIVES if kept.guidance_scale > 1 else None
    assert distance(draw(dropped, negatives=negatives), draw(kept, negatives=negatives)) < 1e-5
    one, other = (sampler.condition(PROMPTS[:1], negatives and negatives[:1]) for sampler in (kept, dropped))
    assert one.text.shape[0] == other.text.shape[0] == 1  # encoded before: no warning, nothing is loaded


def test_a_new_prompt_loads_the_encoders_again_and_says_so(flow_folders, monkeypatch):
    loaded, load = [], checkpoints.load_network

    def noted(kind, *args, **more):
        network = load(kind, *args, **more)
        loaded.append((kind.__name__, weakref.ref(network)))
        return network

    def alive():
        return [name for name, network in loaded if network() is not None]

    monkeypatch.setattr(checkpoints, "load_network", noted)
    options = {"image_size": 16, "max_sequence_length": 40, "keep_text_encoder": False}
    sampler = gf.load_sampler("z-image-turbo", checkpoint=flow_folders["z_image"], **options)
    others = alive()
    assert len(others) == 2  # not the text encoder
    first = sampler.condition(["a cat", "two dogs"])
    assert len(loaded) == 3 and alive() == others
    assert torch.equal(sampler.condition(["two dogs", "a cat"]).text, first.text[[1, 0]])
    assert len(loaded) == 3
    with pytest.warns(UserWarning, match=r"dropped \(keep_text_encoder=False\) and are loaded again for 'a house'"):
        both = sampler.condition(["a house", "a cat"])
    assert len(loaded) == 4 and alive() == others
    assert torch.equal(both.text[1][both.mask[1]], first.text[0][first.mask[0]])


def test_a_sampler_that_was_used_goes_to_another_process(make):
    for keep in (True, False):
        sampler = make("z-image-turbo", num_steps=2, keep_text_encoder=keep)
        found = draw(sampler, negatives=None)
        assert torch.equal(draw(pickle.loads(pickle.dumps(sampler)), negatives=None), found)


# Editing


def test_klein_draws_after_pictures(make, flow_folders, pipe_of, tmp_path):
    generator = torch.Generator().manual_seed(3)
    pictures = [to_pil(torch.rand(3, *size, generator=generator)) for size in ((70, 90), (64, 64))]
    pictures[0].save(tmp_path / "a.png")
    plain = make("flux2-klein", num_steps=2)
    sampler = gf.load_sampler(
        "flux2-klein",
        checkpoint=flow_folders["flux2"],
        num_steps=2,
        image_size=(32, 48),
        max_sequence_length=40,
        reference=[tmp_path / "a.png", pictures[1]],
    )
    call = {"num_inference_steps": 2, "max_sequence_length": 40, "height": 32, "width": 48}
    wanted = published(pipe_of("flux2"), sampler, negatives=None, image=pictures, **call)
    assert distance(draw(sampler, negatives=None), wanted) < 1e-4
    assert distance(draw(plain, negatives=None), wanted) > 1e-3
    own = families.from_pipeline(pipe_of("flux2"), image=pictures[0], num_inference_steps=1, max_sequence_length=40)
    assert own.image_size == (64, 80)  # whole tokens of the picture
    alone = published(
        pipe_of("flux2"), own, negatives=None, image=pictures[0], num_inference_steps=1, max_sequence_length=40
    )
    assert distance(draw(own, negatives=None), alone) < 1e-4
    for bad, message in ((pictures[0].resize((20, 20)), "sides of 64 at least"), (7, "Got image of type int")):
        with pytest.raises(gf.GuideflowError, match=message):
            families.from_pipeline(pipe_of("flux2"), image=bad)


# Options and facts


def test_a_lora_of_the_users_is_asked_for(flow_folders, tmp_path):
    with pytest.raises(gf.GuideflowError, match=r"not distilled by itself\. Give a LoRA: lora='wangfuyun/PCM_Weights"):
        gf.load_sampler("pcm-sd3")
    one = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    key = "transformer.transformer_blocks.0.attn.to_q"
    save_file({f"{key}.lora_A.weight": one, f"{key}.lora_B.weight": one.T.contiguous()}, tmp_path / "l.safetensors")
    options = {"checkpoint": flow_folders["sd3"], "image_size": 16, "max_sequence_length": 20}
    with_lora = gf.load_sampler("pcm-sd3", lora=tmp_path / "l.safetensors", **options)
    plain = gf.load_sampler("pcm-sd3", **options)
    assert distance(draw(with_lora, negatives=None), draw(plain, negatives=None)) > 1e-3


def test_grids():
    times = {
        "sd35-large-turbo": (1, 0.85769, 0.60215, 0.00893),
        "z-image-turbo": (1, 0.95455, 0.9, 0.83333, 0.75, 0.64286, 0.5, 0.3),
        "flux2-klein": (1, 0.96738, 0.90814, 0.7672),
        "pcm-sd3": (1, 0.90476, 0.75, 0.51316),
        "sana-sprint": (1, 0.7827),
        "qwen-image-lightning": (1, 0.9, 0.75, 0.5),
    }
    for name, sigmas in times.items():
        made = families.FLOWS[name].schedule()
        assert made.times == pytest.approx([1000 * s for s in sigmas], abs=0.01)
    assert families.sd3_schedule(4, grid="even").times == pytest.approx((1000, 900, 750, 500))
    assert families.klein_schedule(4, image_size=512).times == pytest.approx((1000, 958.09, 883.98, 717.5), abs=0.01)
    large = families.klein_schedule(4, image_size=(2048, 1024))  # above 4300 tokens the steps do not count
    mu = 1.6927e-4 * 8192 + 0.45666666
    assert large.times[2] == pytest.approx(1000 * math.exp(mu) / (math.exp(mu) + 1), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("sd35-large-turbo", {"grid": "odd"}, "Expected one of: 'released', 'even'"),
        ("z-image-turbo", {"num_steps": 0}, "whole number of at least 1"),
        ("pcm-sd3", {"num_steps": 51}, "whole number from 1 to 50"),
        ("sana-sprint", {"middle_angle": 2.0}, "middle_angle=2.0"),
        ("flux2-klein", {"image_size": 40}, "positive multiples of 16 pixels"),
        ("sana-sprint", {"image_size": 40}, "positive multiples of 32 pixels"),
        ("qwen-image-lightning", {"shift": 0.0}, "shift=0.0"),
    ],
)
def test_bad_options(flow_folders, name, option, message):
    with pytest.raises(gf.GuideflowError, match=message) as caught:
        gf.load_sampler(name, checkpoint=flow_folders[MAIN[name].base], **option)
    assert "\n" not in str(caught.value)


def test_checkpoints_that_do_not_fit(flow_folders, tmp_path):
    with pytest.raises(gf.GuideflowError, match=r"has a Flux2Transformer2DModel\. Expected a ZImageTransformer2DModel"):
        gf.load_sampler("z-image-turbo", checkpoint=flow_folders["flux2"])
    with pytest.raises(gf.GuideflowError, match="transformer, vae, tokenizer, text_encoder not found"):
        gf.load_sampler("z-image-turbo", checkpoint=tmp_path)
    index = flow_folders["z_image"] / "model_index.json"
    text = index.read_text()
    try:
        index.write_text(text.replace('"transformers",\n    "Qwen3ForCausalLM"', '"mine",\n    "Encoder"'))
        with pytest.raises(gf.GuideflowError, match=r"names mine\.Encoder as text_encoder"):
            gf.load_sampler("z-image-turbo", checkpoint=flow_folders["z_image"])
    finally:
        index.write_text(text)


def letter(fit):
    """How a sampler fits a card, as the table of the documentation writes it."""
    mode = fit.partition("'")[2][:1].upper() or "-"
    return mode + ("\\*" if "keep_text_encoder" in fit else "")


def test_what_info_tells():
    entries = families.guideflow_samplers()
    for name in families.FLOWS:
        entry = entries[name]
        assert entry.commercial and entry.licence and entry.downloads[0].size > 5e9
        assert entry.footprint.bytes("bfloat16", text=False)[0] < entry.footprint.bytes("bfloat16")[0]
    assert entries["sana-sprint"].commercial == "not verified"
    assert entries["flux2-klein"].commercial == entries["z-image-turbo"].commercial == "yes"
    assert any(name.startswith("text_encoder_3/") for name in entries["sd35-large-turbo"].downloads[0].files)
    cards = [card for entry in entries.values() for card in entry.default_for]
    assert sorted(cards) == list(CARDS)
    for entry in entries.values():
        assert all(entry.footprint.fit(card) for card in entry.default_for)
        assert not entry.default_for or entry.commercial.startswith(("yes", "below"))
    page = (Path(__file__).parents[2] / "docs" / "tutorials" / "choose-what-your-card-can-hold.md").read_text()
    rows = [
        f"| {card} GB | `{name}` | `{entry.footprint.fit(card)}` | {entry.footprint.image} |"
        for card in CARDS
        for name, entry in entries.items()
        if card in entry.default_for
    ]
    assert "\n".join(rows) in page
    rows = [
        f"| `{name}` | {found.image.split('x')[0]} | {' | '.join(letter(found.fit(card)) for card in CARDS)} |"
        for name, found in sorted((name, entry.footprint) for name, entry in entries.items())
    ]
    assert "\n".join(rows) in page
    weights = family_weights(families.FLOWS["flux2-klein"])["footprint"]
    assert "keep_text_encoder=False" in weights.fit(16) and not weights.fit(8)
