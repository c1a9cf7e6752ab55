"""The converted face networks against the published package's own code, and its format."""

import json
from pathlib import Path

import pytest
import torch

from guideflow_identity import networks

REFERENCE = json.loads((Path(__file__).parent / "faces_reference.json").read_text())


def picture(height, width):
    """The formula of tools/faces/reference.js, whose images are whole numbers in 0..255."""
    y, x, c = torch.meshgrid(torch.arange(height), torch.arange(width), torch.arange(3), indexing="ij")
    return (((((x * x + 3 * y * y) >> 5) + 5 * x + 90 * c) % 256) / 255).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def detector():
    return networks.load(networks.FaceDetector(), "detector")


@pytest.fixture(scope="module")
def landmarks():
    return networks.load(networks.FaceLandmarks(), "landmarks")


@pytest.fixture(scope="module")
def recogniser():
    return networks.load(networks.FaceRecogniser(), "recogniser")


def test_the_detector_answers_as_published(detector):
    expected = torch.tensor(REFERENCE["detector"]).view(1, 5, 5, 5, 5)
    torch.testing.assert_close(detector(picture(160, 160)), expected, rtol=1e-4, atol=1e-3)


def test_the_landmarks_are_as_published(landmarks):
    expected = torch.tensor(REFERENCE["landmarks"]).view(1, 68, 2)
    torch.testing.assert_close(landmarks(picture(112, 112)), expected, rtol=1e-4, atol=1e-5)


def test_the_descriptor_is_as_published(recogniser):
    expected = torch.tensor(REFERENCE["recogniser"]).view(1, 128)
    torch.testing.assert_close(recogniser(picture(150, 150)), expected, rtol=1e-4, atol=1e-5)
