"""The arcface backend on tiny ONNX files with random weights, laid out as insightface's packs."""

import os
import shutil
import warnings

import numpy as np
import onnx
import pytest
import torch
from insightface.utils import face_align
from torch.nn import functional as F

from guideflow.errors import InvalidArgument
from guideflow_identity import Identity, arcface
from guideflow_identity.arcface import ArcFaces, WeightsLicence, load_pack
from guideflow_identity.onnx_network import read_onnx
from onnx_graphs import BOX, POINTS, Graph, detector, recogniser

# Told once in a process, by whichever test comes first; `backend` asks for it.
pytestmark = pytest.mark.filterwarnings("ignore::guideflow_identity.arcface.WeightsLicence")


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """A pack in a folder within a folder of the same name, beside a file of another kind."""
    folder = tmp_path_factory.mktemp("models")
    inner = folder / "antelopev2" / "antelopev2"
    inner.mkdir(parents=True)
    onnx.save(detector(), inner / "scrfd_10g_bnkps.onnx")
    onnx.save(recogniser(), inner / "glintr100.onnx")
    g = Graph()
    onnx.save(g.model([1, 3, 96, 96], [g("Relu", "input.1")]), inner / "genderage.onnx")
    return folder


@pytest.fixture
def backend(pack):
    arcface._told.clear()
    with pytest.warns(WeightsLicence, match="non-commercial research only"):
        return ArcFaces(pack, detector_size=64)


def test_a_nested_pack_is_found_and_its_licence_told_once(pack, backend):
    ArcFaces(pack)  # warnings are errors here, so a second one would be seen
    assert load_pack(pack).keys() == {"detection", "recognition"}


def test_a_pack_is_found_by_its_name_in_insightfaces_folder(pack, monkeypatch):
    monkeypatch.setattr(arcface, "PACKS", pack)
    for given in (None, "antelopev2"):
        assert load_pack(given)["recognition"].model_file.endswith("glintr100.onnx")


def test_a_folder_without_a_pack_is_refused_with_the_cure(tmp_path):
    with pytest.raises(InvalidArgument, match=r"no \.onnx file.*pack='FOLDER'"):
        load_pack(tmp_path)
    onnx.save(recogniser(), tmp_path / "w600k.onnx")
    with pytest.raises(InvalidArgument, match=r"both a detector with landmarks.*Found: w600k\.onnx"):
        load_pack(tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"no onnx")
    with pytest.raises(InvalidArgument, match=r"insightface cannot load .*broken"):
        load_pack(tmp_path)
    with pytest.raises(InvalidArgument, match=r"broken\.onnx cannot be read as an ONNX file"):
        read_onnx(tmp_path / "broken.onnx")


def reds(*corners, size=(96, 128)):
    """Dark images with a pure red square of 16 pixels, or none."""
    images = 0.1 * torch.rand(len(corners), 3, *size, generator=torch.Generator().manual_seed(0))
    for image, corner in zip(images, corners, strict=True):
        if corner is not None:
            y, x = corner
            image[:, y : y + 16, x : x + 16] = torch.tensor([1.0, 0, 0]).view(3, 1, 1)
    return images


def test_faces_are_found_in_colours_and_pixels_of_the_image(backend):
    # The detector sees the image at half its size, where the square is the cell at column 3, row 2 of stride 8.
    faces = backend.find(reds(None, (32, 48)), 0.5)
    assert faces.image.tolist() == [1] and faces.score.item() > 0.99
    left, top, right, bottom = (8 * n for n in BOX)
    expected = [2 * (24 - left) + 0.5, 2 * (16 - top) + 0.5, 2 * (24 + right) + 0.5, 2 * (16 + bottom) + 0.5]
    assert faces.box[0].tolist() == expected
    points = [[2 * (24 + 8 * x) + 0.5, 2 * (16 + 8 * y) + 0.5] for x, y in zip(POINTS[::2], POINTS[1::2], strict=True)]
    assert faces.points[0].tolist() == points


@pytest.mark.parametrize("normalises", [False, True])
def test_crop_and_embedding_are_those_of_insightface(pack, tmp_path, normalises):
    onnx.save(detector(), tmp_path / "det.onnx")
    onnx.save(recogniser(normalises), tmp_path / "rec.onnx")
    backend = ArcFaces(tmp_path, detector_size=64, antialias=False)
    theirs = load_pack(tmp_path)["recognition"]
    coarse = torch.rand(1, 3, 30, 40, generator=torch.Generator().manual_seed(1))
    image = (F.interpolate(coarse, (240, 320), mode="bicubic").clamp(0, 1) * 255).round()
    blue_first = np.ascontiguousarray(image[0].byte().flip(0).permute(1, 2, 0).numpy())
    for angle, scale in ((0.0, 1.0), (0.4, 1.6), (-0.7, 0.8)):
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = (
            np.array(arcface.TEMPLATE) @ turn.T + [90.3, 60.7] + np.random.default_rng(0).normal(0, 1, (5, 2))
        ).astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # insightface's, of scikit-image
            crop = face_align.norm_crop(blue_first, points)
        ours = backend.align(image / 255, torch.tensor([0]), torch.from_numpy(points)[None] + 0.5)
        aligned = torch.from_numpy(crop[..., ::-1].copy()).permute(2, 0, 1)[None].float()
        assert (255 * ours - aligned).abs().max() <= 0.55, "more than rounding to whole grey levels"
        expected = F.normalize(torch.from_numpy(theirs.get_feat(crop)), dim=1)
        torch.testing.assert_close(backend.embed(aligned / 255), expected, rtol=1e-3, atol=1e-5)
        assert (backend.embed(ours) @ expected.T).item() > 0.999


def test_faces_are_aligned_and_told_apart_end_to_end(backend):
    red = reds((32, 48), (32, 48), None)
    red[1] = torch.where((red[1] == 1) | (red[1] == 0), red[1], 0.9 - red[1])  # other colours around
    loss = Identity(red[:1], backend=backend, on_missing="skip")
    x = red.requires_grad_()
    value = loss(x)
    assert value[0] < 1e-5 < value[1]
    assert value[2] == 2
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert gradient[1].any()
    assert not gradient[2].any()


def test_a_pack_with_a_broken_file_of_another_kind_is_taken(pack, tmp_path):
    folder = shutil.copytree(pack / "antelopev2" / "antelopev2", tmp_path / "pack")
    (folder / "a_third.onnx").write_bytes(b"no onnx")
    assert {"detection", "recognition"} <= load_pack(folder).keys()
    os.mkfifo(folder / "pipe.onnx")
    with pytest.raises(InvalidArgument, match=r"pipe\.onnx is no file"):
        load_pack(folder)


def test_a_graph_that_takes_all_memory_is_refused_in_one_line():
    model = recogniser()
    model = model if isinstance(model, onnx.ModelProto) else model[0]
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    next(one for one in convolution.attribute if one.name == "pads").ints[:] = [10**8] * 4
    with pytest.raises(InvalidArgument, match=r"more memory for one face than there is|cannot be evaluated"):
        arcface._check_recogniser(arcface.OnnxNetwork(model), 112)
