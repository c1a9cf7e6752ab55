"""What listings say about weights: whether they are here, how large they are, how much memory they need."""

import subprocess
import sys

import pytest

import guideflow as gf
from guideflow import registry
from guideflow.__main__ import main
from guideflow.registry.weights import Download, Footprint, hub_cache

FILES = ("unet/diffusion_pytorch_model*.safetensors", "vae/*.safetensors")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put(cache, repository, *names):
    folder = cache / f"models--{repository.replace('/', '--')}" / "snapshots" / "abc"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_download_is_present_when_every_file_is(cache):
    download = Download("a/b", FILES, 1.72e9)
    assert not download.present()
    put(cache, "a/b", "unet/diffusion_pytorch_model.safetensors")
    assert not download.present()
    put(cache, "a/b", "vae/diffusion_pytorch_model.safetensors")
    assert download.present()
    assert not Download("a/other", FILES, 1.0).present()
    assert str(download).startswith("a/b: unet/") and str(download).endswith("(about 1.7 GB)")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HUB_CACHE": "/one", "HF_HOME": "/two"}, "/one"),
        ({"HUGGINGFACE_HUB_CACHE": "/three"}, "/three"),
        ({"HF_HOME": "/two"}, "/two/hub"),
        ({"XDG_CACHE_HOME": "/four"}, "/four/huggingface/hub"),
        ({"HOME": "/home/me"}, "/home/me/.cache/huggingface/hub"),
    ],
)
def test_the_cache_is_where_the_client_has_it(monkeypatch, variables, expected):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(hub_cache()) == expected
    code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_memory_is_the_sum_of_its_parts():
    footprint = Footprint(weights=1e9, step=1e8, steps=4, evaluations=2, fixed=1e8, decode=5e8, image="512x512")
    assert footprint.bytes("float32") == (4.4e9, 4 * 8e8 + 2e9)
    assert footprint.bytes("bfloat16") == (2.4e9, 2 * 8e8 + 2e9)
    assert footprint.bytes("float64") == (8.8e9, 8 * 8e8 + 4e9)
    full, half = footprint.lines()
    assert full == "float32: weights 4.4 GB + gradient 5.2 GB for each image at 512x512 = about 9.6 GB"
    assert half.startswith("bfloat16: weights 2.4 GB + gradient 3.6 GB")


def test_memory_of_every_gradient_mode():
    footprint = Footprint(
        weights=1e9,
        step=1e8,
        steps=4,
        evaluations=2,
        decode=5e8,
        windowed_decode=2e8,
        checkpointed_step=1e7,
        checkpointed_decode=1e8,
    )
    assert footprint.bytes("bfloat16") == (2e9, 4 * 4e8 + 2e9)
    assert footprint.bytes("bfloat16", "windowed") == (2e9, 4e8 + 8e8)
    assert footprint.bytes("bfloat16", "checkpointed") == (2e9, 4e7 + 4e8)
    assert footprint.lines()[1].endswith("= about 5.6 GB; windowed 3.2 GB; checkpointed 2.4 GB")
    from guideflow_diffusers.sizes import footprint as of_base

    for base in ("SD 1.5", "SD 2.1", "SDXL", "SD 2.1 at 512x512", "SDXL at 512x512"):
        kept = [of_base(base, steps=4).bytes("float32", mode)[1] for mode in ("full", "windowed", "checkpointed")]
        assert kept[0] > kept[1] > kept[2] > 0


def test_cards():
    footprint = Footprint(
        weights=5e9, step=1e9, steps=4, fixed=1e8, decode=1e9, text=2e9, windowed_decode=5e8,
        checkpointed_step=1e8, checkpointed_decode=1e8,
    )  # fmt: skip
    # 9/10 of a gibibyte count; without text encoders 6.4 GB of weights, and 12, 4 or 0.6 GB of the gradient.
    assert [footprint.fit(card) for card in (6, 8, 12, 16, 24)] == [
        "",
        "gradient_mode='checkpointed', keep_text_encoder=False",
        "gradient_mode='windowed', keep_text_encoder=False",
        "gradient_mode='windowed'",
        "gradient_mode='full'",
    ]
    assert footprint.cards().splitlines()[0] == "8 GB: gradient_mode='checkpointed', keep_text_encoder=False"
    assert footprint.parameters() == "3.0 billion, 2.0 billion of text encoders, 100 million of the autoencoder"
    plain = Footprint(weights=1e9, step=1e9)
    assert (plain.fit(1), plain.fit(8), plain.parameters()) == ("", "gradient_mode='full'", "1.0 billion")
    assert plain.cards().startswith("8 GB: gradient_mode='full'")


def test_sizes_of_the_bases_are_those_of_their_parameters():
    from guideflow_diffusers.sizes import checkpoint_download, footprint

    assert footprint("SD 1.5", steps=4).bytes("float32")[0] == pytest.approx(4.27e9, rel=0.01)
    assert footprint("SDXL", steps=4, evaluations=2).lines()[0].startswith("float32: weights 13.9 GB")
    assert checkpoint_download("a/b", "SDXL", half=True).size == pytest.approx(6.94e9, rel=0.01)
    assert "text_encoder_2/model.v0-fix*.safetensors" in checkpoint_download("a/b", "SDXL", variant="v0-fix").files


@pytest.fixture
def sampler(monkeypatch, cache):
    """A sampler that says everything about its weights."""
    entry = gf.Entry(
        lambda *, num_steps=4: None,
        summary="Draws [things]",
        licence="CC BY-NC 4.0",
        commercial="no",
        default_for=(12, 16),
        base="SD 1.5",
        steps="4 or more",
        downloads=(Download("a/b", FILES, 4.27e9),),
        footprint=Footprint(weights=1e9, step=1e8, steps=4, image="512x512"),
    )
    plugin = registry.Plugin("drawer", "drawer", "drawers", "1.0")
    offer = registry.Offer("sampler", "drawer", entry, plugin)
    monkeypatch.setattr("guideflow.registry.offers", lambda kind: (offer,) if kind == "sampler" else ())
    return entry


def test_list_and_info_tell_where_the_weights_are(sampler, cache, capsys):
    def said(*arguments):
        assert main(list(arguments)) == 0
        return " ".join(capsys.readouterr().out.split())

    assert "drawer Draws [things] SD 1.5; 4 or more steps; to download; CC BY-NC 4.0" in said("list")
    text = said("info", "drawer")
    for part in (
        "base SD 1.5",
        "steps 4 or more",
        "weights a/b: unet/diffusion_pytorch_model*.safetensors, vae/*.safetensors (about 4.3 GB), to download",
        "memory float32: weights 4.0 GB + gradient 1.6 GB for each image at 512x512 = about 5.6 GB",
        "bfloat16: weights 2.0 GB",
        "commercial use no",
        "parameters 1.0 billion",
        "cards 8 GB: --gradient-mode full",
        "(derived from the memory in bfloat16, not measured)",
        "default for 12 GB cards and 16 GB cards",
    ):
        assert part in text, text
    put(cache, "a/b", "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors")
    assert "4 or more steps; present" in said("list", "samplers")
    assert "(about 4.3 GB), present" in said("info", "drawer")


def test_whereabouts():
    factory = lambda: None  # noqa: E731
    assert gf.Entry(factory, "").weights == ""
    assert gf.Entry(factory, "", downloads=()).weights == "weights included"


def test_missing_weights_are_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    import guideflow_avatars

    loss = f"avatars-identity:reference={guideflow_avatars.portrait('ada')}"
    assert main(["run", "--sampler", "perflow", "--loss", loss, "--prompt", "a", "--out", "here"]) == 2
    error = capsys.readouterr().err.strip()
    assert max(map(len, error.splitlines())) < 240 and error.startswith(
        "guideflow: The weights of 'hansyan/perflow-sd15-dreamshaper'"
    )
    assert "hf download hansyan/perflow-sd15-dreamshaper --include '*.json'" in error and "checkpoint=" in error
