"""Image processors of segmentation networks: what they do is done, or refused."""

import json

import pytest
import torch
import transformers
from torch.nn import functional as F

from guideflow.errors import InvalidArgument
from guideflow.losses.vision import Preparation
from guideflow_segmentation.folders import preparation_from


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"do_normalize": False, "size": {"shortest_edge": 8}}, Preparation((8, 8))),
        ({"do_normalize": False, "do_resize": False, "size": 8}, Preparation(None)),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, Preparation(None, (0.5,) * 3, (0.5,) * 3)),
        ({"image_mean": [51] * 3, "image_std": [255] * 3, "do_rescale": False}, Preparation(None, (0.2,) * 3)),
        ({"do_normalize": False, "rescale_factor": 1 / 127.5}, Preparation(None, std=(0.5,) * 3)),
    ],
)
def test_image_processors_speak_of_pictures_up_to_255(processor, expected):
    found = preparation_from(processor)
    assert found.size == expected.size
    assert found.mean == pytest.approx(expected.mean) and found.std == pytest.approx(expected.std)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("SegformerImageProcessor", {"size": {"height": 16, "width": 24}}),
        ("BeitImageProcessor", {"size": {"height": 16, "width": 24}, "do_center_crop": False}),
        ("DPTImageProcessor", {"size": {"height": 16, "width": 24}}),
        ("MobileViTImageProcessor", {"size": {"shortest_edge": 16}, "do_center_crop": False}),
    ],
)
def test_images_are_prepared_as_the_processor_does(kind, options):
    processor = getattr(transformers, kind)(**options)
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    image = F.interpolate(coarse, (48, 48) if "MobileViT" in kind else (48, 60), mode="bicubic").clamp(0.1, 0.9)
    expected = processor(image, do_rescale=False, return_tensors="pt")["pixel_values"]
    found = preparation_from(json.loads(processor.to_json_string()))
    torch.testing.assert_close(found(image), expected, rtol=0, atol=1e-4)


def test_of_a_processor_that_crops_the_whole_image_is_seen_at_the_size_of_the_crop():
    found = preparation_from({"size": {"shortest_edge": 288}, "crop_size": {"height": 256, "width": 256}})
    assert found == Preparation((256, 256))


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        ({"size": 8, "resample": 1}, "resample=1"),
        ({"size": 8, "do_normalize": True}, r"type mean=\[\.\.\.\]"),
        ({"do_resize": False, "do_pad": True}, "padded"),
    ],
)
def test_what_a_processor_does_and_is_not_known_here_is_refused(processor, message):
    with pytest.raises(InvalidArgument, match=message):
        preparation_from(processor)
