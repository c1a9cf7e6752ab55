"""The weights of a network are looked at once while it is loaded, and again where they have changed since."""

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from guideflow.errors import InvalidArgument
from guideflow.losses import networks


@pytest.fixture
def folder(tmp_path):
    config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def looks(monkeypatch):
    found, look = [], networks.spoiled
    monkeypatch.setattr(networks, "spoiled", lambda *given, **more: found.append(1) or look(*given, **more))
    return found


def test_what_is_read_whole_is_looked_at_once(folder, looks):
    networks.freeze(networks.from_transformers("AutoModel", folder, extra="subject"))
    assert len(looks) == 1


def test_what_has_changed_since_is_looked_at_again(folder, looks):
    network = networks.from_transformers("AutoModel", folder, extra="subject")
    with torch.no_grad():
        network.layernorm.weight.mul_(torch.nan)
    with pytest.raises(InvalidArgument, match=r"layernorm.weight holds nan"):
        networks.freeze(network)
    assert len(looks) == 2


def test_networks_of_the_user_are_looked_at():
    network = torch.nn.Linear(2, 2)
    network.weight.data[:] = torch.inf
    with pytest.raises(InvalidArgument, match="weight holds nan or infinite"):
        networks.freeze(network)
