"""Pillow images, arrays and numpy's numbers are taken, and what cannot be is refused in words."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

import guideflow as gf
import guideflow_avatars as avatars
import guideflow_identity
from guideflow.errors import GuideflowError, InvalidArgument
from guideflow.losses.vision import read_subjects
from guideflow.settings import broadcast

ADA = avatars.portrait("ada")
LOSSES = pytest.mark.parametrize("name", ["avatars-identity", "avatars-style", "avatars-subject"])


@LOSSES
def test_pillow_images_and_arrays_are_references(name):
    x = gf.images.read_image(avatars.portrait("cleo"))
    expected = gf.load_loss(name, reference=ADA)(x)
    picture = Image.open(ADA)
    bytes_ = np.asarray(picture.convert("RGB"))
    for given in (picture, bytes_, bytes_ / 255, (bytes_ / 255).astype(np.float32), [picture]):
        assert torch.allclose(gf.load_loss(name, reference=given)(x).float(), expected, atol=1e-6)


def test_several_subjects_of_several_kinds():
    picture = Image.new("RGB", (4, 6), "red")
    found = read_subjects([picture, [np.zeros((5, 5, 3), np.uint8), torch.zeros(3, 2, 2)], str(ADA)], False, "same")
    assert [[tuple(image.shape[2:]) for _, image in one] for one in found] == [[(6, 4)], [(5, 5), (2, 2)], [(128, 128)]]
    assert [name for one in found for name, _ in one] == ["reference 0", "reference 0", "reference 1", str(ADA)]


def warmth(image):
    return image.mean((1, 2, 3))


@pytest.mark.parametrize(
    "seed", [np.int64(3), torch.tensor(3), np.array([3]), [np.int32(3)], torch.tensor([3])], ids=repr
)
def test_seeds_of_numpy_and_torch(seed):
    *_, seeds = broadcast(["a", "b"], None, seed)
    assert seeds == (3, 3) and type(seeds[0]) is int


@pytest.mark.parametrize(
    "given",
    [("", 3.0), ("", 2**64), ("", True), ("", None), (None, 0), ("caf\udce9", 0), (3, 0), (["a", 3], 0), (b"a", 0)],
    ids=ascii,
)
def test_what_is_no_seed_or_prompt_is_refused(given):
    with pytest.raises(InvalidArgument, match=r"Expected|UTF-8"):
        broadcast(given[0], None, given[1])


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "ipu"])
def test_devices_that_are_not_here(device):
    for load in (
        lambda: gf.load_sampler("avatars-perflow", device=device),
        lambda: gf.load_loss("avatars-identity", reference=ADA, device=device),
        lambda: gf.load_loss("identity", reference=guideflow_identity.example(), device=device),
        lambda: gf.load_loss("avatars-subject", reference=ADA, device=device),
    ):
        with pytest.raises(GuideflowError, match=r"Got device=.*'cpu'"):
            load()


def test_losses_and_samplers_are_sent_to_other_processes_after_use():
    example = gf.images.read_image(guideflow_identity.example())
    loss = gf.load_loss("identity", reference=example)
    value = loss(example)
    assert torch.equal(pickle.loads(pickle.dumps(loss))(example), value)
    sampler = gf.load_sampler("avatars-perflow")
    options = {"prompt": "a person", "max_iterations": 1, "candidates": 1, "gradient_mode": "windowed"}
    solution = gf.solve(sampler, gf.as_loss(warmth), **options)
    again = gf.solve(pickle.loads(pickle.dumps(sampler)), warmth, **options)
    assert torch.equal(again.images, solution.images)
    assert torch.equal(pickle.loads(pickle.dumps(solution)).images, solution.images)
