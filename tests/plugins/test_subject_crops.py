"""Crops and features of `subject`."""

import torch
from torch import nn
from torch.nn import functional as F

from guideflow_subject.features import Features


class Colours(nn.Module):
    """Features with a known answer: the mean colour, from normalised crops."""

    def forward(self, crops):
        mean, std = (crops.new_tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return (crops * std + mean).mean((2, 3))


def test_a_crop_has_the_pixels_of_its_box_and_no_gradient_outside():
    image = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    crop = Features(Colours(), 8).crop(image, torch.tensor([1]), torch.tensor([[4.0, 2.0, 12.0, 10.0]]))
    torch.testing.assert_close(crop, image[1:, :, 2:10, 4:12])
    (gradient,) = torch.autograd.grad(crop.square().sum(), image)
    inside = torch.zeros_like(image, dtype=torch.bool)
    inside[1, :, 2:10, 4:12] = True
    assert not gradient[~inside].any() and gradient[inside].all()


def test_references_and_pictures_are_preprocessed_alike_but_not_as_rectifid():
    picture = torch.rand(1, 3, 40, 30, generator=torch.Generator().manual_seed(0))
    box, first = torch.tensor([[2.0, 3.0, 25.0, 36.0]]), torch.tensor([0])
    ours = Features(Colours(), 14)
    torch.testing.assert_close(ours.crop_reference(picture, box[0]), ours.crop(picture, first, box))
    theirs = Features(Colours(), 14, rectifid=True)
    crop, reference = theirs.crop(picture, first, box), theirs.crop_reference(picture, box[0])
    cut = picture[:, :, 3:36, 2:25]
    torch.testing.assert_close(crop, F.interpolate(cut, (14, 14), mode="nearest"))
    large = F.interpolate(cut, (23, 16), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(reference, large[:, :, 4:18, 1:15])
    assert not torch.allclose(theirs.embed(crop), theirs.embed(crop, reference=True))
