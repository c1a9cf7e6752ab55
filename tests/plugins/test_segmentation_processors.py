"""Image processors of segmentation networks: what they do is done, or refused."""

import dataclasses
import json

import pytest
import torch
import transformers
from torch.nn import functional as F

from guideflow.errors import InvalidArgument
from guideflow.losses.processors import preparation_from, read_processor
from guideflow.losses.vision import Preparation
from guideflow_segmentation import Segmentation


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"do_normalize": False, "size": {"shortest_edge": 8}}, Preparation(8)),
        ({"do_normalize": False, "do_resize": False, "size": 8}, Preparation(None)),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, Preparation(None, (0.5,) * 3, (0.5,) * 3)),
        ({"image_mean": [51] * 3, "image_std": [255] * 3, "do_rescale": False}, Preparation(None, (0.2,) * 3)),
        ({"do_normalize": False, "rescale_factor": 1 / 127.5}, Preparation(None, std=(0.5,) * 3)),
        ({"image_mean": 0.5, "image_std": [0.5]}, Preparation(None, (0.5,) * 3, (0.5,) * 3)),
    ],
)
def test_image_processors_speak_of_pictures_up_to_255(processor, expected):
    found = preparation_from(processor)
    assert found.size == expected.size
    assert found.mean == pytest.approx(expected.mean) and found.std == pytest.approx(expected.std)


SQUARE = {"size": {"height": 16, "width": 24}}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("SegformerImageProcessor", SQUARE),
        ("SegformerImageProcessor", SQUARE | {"resample": 3, "do_normalize": False}),
        ("SegformerImageProcessor", SQUARE | {"rescale_factor": 1 / 127.5}),
        ("BeitImageProcessor", SQUARE),
        ("BeitImageProcessor", {"size": {"height": 30, "width": 40}, "do_center_crop": True, "crop_size": 24}),
        ("DPTImageProcessor", SQUARE),
        ("MobileViTImageProcessor", {"size": {"shortest_edge": 16}, "do_center_crop": False}),
        ("MobileViTImageProcessor", {"size": {"shortest_edge": 34}, "crop_size": {"height": 32, "width": 28}}),
        ("MobileViTImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": 41, "do_flip_channel_order": False}),
        ("MobileNetV2ImageProcessor", {"size": {"shortest_edge": 36}, "crop_size": {"height": 33, "width": 33}}),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 20}, "crop_size": {"height": 20, "width": 20}}),
        ("DeiTImageProcessor", {"size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}}),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(48, 48), (47, 60), (90, 52)], ids=str)
def test_images_are_prepared_as_the_processor_does_to_a_grey_level(kind, options, shape, tmp_path):
    processor = getattr(transformers, kind)(**options)
    processor.save_pretrained(tmp_path)
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    # Sharp edges of black and white, beyond which bicubic resizing overshoots.
    image = F.interpolate(coarse, shape, mode="nearest").round()
    image[..., shape[1] // 2 :] = F.interpolate(coarse, shape, mode="bicubic")[..., shape[1] // 2 :].clamp(0, 1)
    bytes_ = (image * 255).round().to(torch.uint8)
    expected = processor(bytes_, return_tensors="pt")["pixel_values"]
    found = preparation_from(read_processor(str(tmp_path), extra="all"))
    level = 1.1 * max(1 / std for std in found.std) / 255  # it rounds twice
    torch.testing.assert_close(found(bytes_.float() / 255), expected, rtol=0, atol=level)


def test_older_files_mean_what_transformers_makes_of_them(tmp_path):
    """As MobileViT's on the Hub, without image_mean and with numbers for sizes."""
    older = {"crop_size": 32, "do_center_crop": True, "do_flip_channel_order": True, "do_resize": True}
    older |= {"feature_extractor_type": "MobileViTFeatureExtractor", "resample": 2, "size": 36}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(older))
    bytes_ = (torch.rand(1, 3, 60, 72, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    expected = transformers.AutoImageProcessor.from_pretrained(tmp_path)(bytes_, return_tensors="pt")["pixel_values"]
    for found in (preparation_from(older), preparation_from(read_processor(str(tmp_path), extra="all"))):
        torch.testing.assert_close(found(bytes_.float() / 255), expected, rtol=0, atol=1 / 255)


class Colours(torch.nn.Module):
    """The logits of two classes: red and blue."""

    def forward(self, image):
        return image[:, [0, 2]]


def test_a_layout_is_cut_as_the_images_are():
    image = torch.zeros(1, 3, 24, 48)
    image[:, 0, :, :20], image[:, 2, :, 20:] = 9.0, 9.0
    layout = (image[0, 2] > 0).long()
    loss = Segmentation(layout, network=Colours())
    preparation = preparation_from({"size": {"shortest_edge": 24}, "crop_size": 16})
    loss._segmenter = dataclasses.replace(loss._segmenter, preparation=preparation)
    loss._wanted.clear()
    assert loss.iou(image / 9).item() == 1
    assert loss.wanted((24, 48)).shape == (16, 16) and loss.wanted((24, 48)).sum() == 16 * 12


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        ({"size": 8, "resample": 1}, "resample=1"),
        ({"size": 8, "do_normalize": True}, r"type mean=\[\.\.\.\]"),
        ({"do_resize": False, "do_pad": True}, "do_pad=True"),
        ({"size": {"shortest_edge": 8, "longest_edge": 16}}, "longest_edge"),
        (
            {"size": 8, "keep_aspect_ratio": True, "ensure_multiple_of": 32},
            "keep_aspect_ratio=True, ensure_multiple_of=32",
        ),
        ({"size": 8, "crop_pct": 0.9}, r"crop_pct=0\.9"),
        ({"size": 8, "image_mean": None, "image_std": [1] * 3}, "cannot be read"),
        ({"size": 8, "image_mean": ["x"] * 3, "image_std": [1] * 3}, "cannot be read"),
        ({"size": 8, "image_mean": [0] * 4, "image_std": [1] * 4}, "Expected three"),
        ({"size": 8, "image_mean": [0] * 3, "image_std": [0] * 3}, "Expected three"),
        ({"size": 8, "do_normalize": False, "rescale_factor": 0}, "cannot be read"),
        ({"size": {"height": "x", "width": 3}}, "cannot be read"),
        ({"size": -5}, "size=-5"),
        ({"size": 10**9}, "size=1000000000"),
        ({"size": 8, "resample": [2]}, "cannot be read"),
    ],
)
def test_what_a_processor_does_and_is_not_known_here_is_refused_by_name(processor, message):
    with pytest.raises(InvalidArgument, match=message):
        preparation_from(processor)


def test_a_size_of_the_users_takes_the_place_of_what_is_not_known_here():
    found = preparation_from({"size": 8, "do_pad": True, "crop_size": 4, "do_flip_channel_order": True}, sized=True)
    assert found == Preparation(bgr=True)
