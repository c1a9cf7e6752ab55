"""Loading CLIP networks: every kind of checkpoint, what is missing, and QuickGELU."""

import json

import open_clip
import pytest
import torch
from torch import nn

import guideflow as gf
import tiny_clip
import traps
from guideflow.errors import InvalidArgument, MissingWeights
from guideflow_clip import Clip, load_clip

NOISE = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_clip.folder(tmp_path_factory.mktemp("clip") / "tiny")


def test_weights_are_never_silently_random(tiny, tmp_path):
    (tmp_path / "open_clip_config.json").write_text((tiny[0] / "open_clip_config.json").read_text())
    with pytest.raises(MissingWeights, match=r"no weights.*random_weights=True"):
        Clip("boat", network=tmp_path)
    Clip("boat", network=tmp_path, random_weights=True)(NOISE)
    with pytest.raises(InvalidArgument, match="one of the two"):
        Clip("boat", network="ViT-B-32", checkpoint="openai", random_weights=True)


def test_random_weights_are_random_even_if_there_are_others(tiny):
    ours = load_clip(tiny[0], random_weights=True).network.state_dict()["visual.conv1.weight"]
    assert not torch.equal(ours, tiny[1].state_dict()["visual.conv1.weight"])


def offline(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(
    ("network", "repository"),
    [("ViT-B-32", "timm/vit_base_patch32_clip_224.openai"), ("someone/clip", "someone/clip")],
)
def test_without_network_the_message_says_what_to_download(network, repository, monkeypatch, tmp_path):
    offline(monkeypatch, tmp_path)
    with pytest.raises(MissingWeights, match=f"hf download {repository} open_clip_config.json"):
        Clip("boat", network=network)


def activation(loaded):
    return {type(one).__name__ for one in loaded.network.modules()} & {"GELU", "QuickGELU"}


@pytest.mark.parametrize("name", ["tiny", "tiny-quickgelu"])
def test_the_tag_decides_about_quick_gelu(name, monkeypatch, tmp_path):
    file = tiny_clip.weights(tiny_clip.network(), tmp_path / "a.safetensors")
    tiny_clip.register(monkeypatch, {"openai": (file, True), "laion": (file, False)})
    assert activation(load_clip(name)) == {"QuickGELU"}
    if name == "tiny":
        assert activation(load_clip(name, "laion")) == {"GELU"}
        with pytest.raises(InvalidArgument, match="trained with QuickGELU"):
            load_clip(name, "openai", quick_gelu=False)
    else:
        with pytest.raises(InvalidArgument, match=r"trained without QuickGELU.*network='tiny'"):
            load_clip(name, "laion")
        with pytest.raises(InvalidArgument, match="Type 'tiny'"):
            load_clip(name, quick_gelu=False)


def test_a_file_that_does_not_say_is_asked_about(monkeypatch, tmp_path):
    tiny_clip.register(monkeypatch)
    made = tiny_clip.network(quick_gelu=True)
    file = tiny_clip.weights(made, tmp_path / "mine.safetensors")
    with pytest.raises(InvalidArgument, match=r"Cannot tell .* QuickGELU.*quick_gelu=True"):
        Clip("boat", network="tiny", checkpoint=file)
    loss = Clip("boat", network="tiny", checkpoint=file, quick_gelu=True)
    suffixed = Clip("boat", network="tiny-quickgelu", checkpoint=file)
    torch.testing.assert_close(loss(NOISE), suffixed(NOISE))
    wrong = Clip("boat", network="tiny", checkpoint=file, quick_gelu=False)
    assert not torch.allclose(loss(NOISE), wrong(NOISE), atol=1e-4)  # which is why it asks


def test_a_file_beside_its_configuration_says(monkeypatch, tmp_path):
    tiny_clip.register(monkeypatch)
    folder, _ = tiny_clip.folder(tmp_path / "quick", quick_gelu=True)
    assert activation(load_clip(folder)) == {"QuickGELU"}
    assert activation(load_clip("tiny", folder / "open_clip_model.safetensors")) == {"QuickGELU"}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # on its way out; OpenAI's files stay what they are
def test_openai_archives_are_read_and_known_to_have_quick_gelu(monkeypatch, tmp_path):
    tiny_clip.register(monkeypatch)
    made = tiny_clip.network(quick_gelu=True)
    archive = nn.Module()
    for key, value in {**made.state_dict(), "context_length": torch.tensor(77)}.items():
        *path, last = key.split(".")
        place = archive
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        place.register_buffer(last, value)
    torch.jit.script(archive).save(str(tmp_path / "RN50.pt"))
    with pytest.warns(UserWarning, match=r"allow_pickle=True: .*RN50\.pt may run code"):
        loaded = load_clip("tiny", tmp_path / "RN50.pt", allow_pickle=True)
    assert activation(loaded) == {"QuickGELU"}
    torch.testing.assert_close(loaded.network.state_dict()["visual.proj"], made.state_dict()["visual.proj"])
    with pytest.raises(InvalidArgument, match="trained with QuickGELU"):
        load_clip("tiny", tmp_path / "RN50.pt", quick_gelu=False)


def test_a_checkpoint_of_another_network_is_refused(monkeypatch, tmp_path):
    tiny_clip.register(monkeypatch)
    file = tiny_clip.weights(tiny_clip.network(tiny_clip.RESNET), tmp_path / "resnet.safetensors")
    with pytest.raises(InvalidArgument, match=r"resnet\.safetensors do not fit"):
        load_clip("tiny", file, quick_gelu=False)
    (tmp_path / "text.pt").write_text("not weights")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(InvalidArgument, match="cannot be read as weights"):
        load_clip("tiny", tmp_path / "text.pt", quick_gelu=False)
    with pytest.raises(InvalidArgument, match="cannot be loaded"):
        load_clip("tiny", tmp_path / "empty.pt", quick_gelu=False)


@pytest.mark.parametrize("trap", traps.TRAPS)
@pytest.mark.parametrize("loss", ["clip", "style"])
def test_weights_that_run_code_are_not_loaded(loss, trap, monkeypatch, tmp_path):
    tiny_clip.register(monkeypatch)
    file, marker = trap(tmp_path / "weights.pt", tmp_path / "marker"), tmp_path / "marker"
    options = {"reference": NOISE, "network": "tiny", "checkpoint": file, "quick_gelu": True}
    found = "TorchScript archive" if trap is traps.torchscript else "pickle of more than tensors"
    with pytest.raises(InvalidArgument, match=rf"{found}.*Expected safetensors.*type allow_pickle=True"):
        gf.load_loss(loss, **options)
    assert not marker.exists()
    # The file is a trap indeed: with the word of the user it goes off, and holds no weights.
    with pytest.warns(UserWarning, match="may run code"), pytest.raises(InvalidArgument):
        gf.load_loss(loss, **options, allow_pickle=True)
    assert marker.exists()


@pytest.mark.parametrize("trap", traps.TRAPS)
def test_a_folder_whose_weights_run_code_is_not_loaded(trap, tiny, tmp_path):
    (tmp_path / "open_clip_config.json").write_text((tiny[0] / "open_clip_config.json").read_text())
    trap(tmp_path / "open_clip_pytorch_model.bin", tmp_path / "marker")
    with pytest.raises(InvalidArgument, match=r"without running code.*type allow_pickle=True"):
        Clip("boat", network=tmp_path)
    assert not (tmp_path / "marker").exists()


def test_a_state_dict_needs_no_word(monkeypatch, tmp_path):
    tiny_clip.register(monkeypatch)
    made = tiny_clip.network()
    torch.save(made.state_dict(), tmp_path / "weights.pt")
    loaded = load_clip("tiny", tmp_path / "weights.pt", quick_gelu=False)
    torch.testing.assert_close(loaded.network.state_dict()["visual.proj"], made.state_dict()["visual.proj"])


@pytest.mark.parametrize("asked", [True, None])
def test_a_configuration_cannot_make_its_tokenizer_run_code(asked, monkeypatch, tmp_path):
    config = {**tiny_clip.VIT, "text_cfg": {**tiny_clip.VIT["text_cfg"], "hf_tokenizer_name": "any"}}
    tiny_clip.folder(tmp_path / "clip")
    traps.remote_code(tmp_path / "clip", tmp_path / "marker", "AutoModel", "PreTrainedTokenizerFast")
    if asked:
        config["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    with pytest.raises(InvalidArgument, match="cannot be loaded"):
        load_clip(tmp_path / "clip")
    assert not (tmp_path / "marker").exists()
    if asked:  # open_clip by itself runs it
        with pytest.raises(Exception):  # noqa: B017
            open_clip.get_tokenizer(f"local-dir:{tmp_path / 'clip'}")
        assert (tmp_path / "marker").exists()


def test_a_configuration_cannot_make_its_text_encoder_run_code(monkeypatch, tmp_path):
    remote = traps.remote_code(tmp_path / "text", tmp_path / "marker", "AutoModel", "PretrainedConfig")
    tiny_clip.folder(tmp_path / "clip")
    config = {**tiny_clip.VIT, "text_cfg": {"hf_model_name": str(remote)}}
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    with pytest.raises(InvalidArgument, match="cannot be loaded"):
        load_clip(tmp_path / "clip")
    assert not (tmp_path / "marker").exists()
