"""What a plugin's author writes: the conformance checks, and what is known about the loss."""

import torch
from guideflow_sharpness import Sharpness

import guideflow as gf
from guideflow.testing import parametrize_loss


@parametrize_loss(Sharpness, name="sharpness")
def test_conforms(check):
    check()


def test_known_answers():
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 1.0
    image = board.expand(1, 3, 8, 8)
    # Every Laplacian is 4 or -4, every difference 1 or -1, so that r = 16 / 2.
    torch.testing.assert_close(Sharpness(half=2.0)(image), torch.tensor([0.2]))
    torch.testing.assert_close(Sharpness()(image * 0.3), Sharpness()(image), rtol=1e-4, atol=0)
    assert Sharpness()(torch.full((1, 3, 8, 8), 0.4)).item() == 1.0


def test_it_loads_by_name_and_guides():
    loss = gf.load_loss("sharpness", half=0.5)
    solution = gf.solve(gf.load_sampler("toy-mixture"), loss, seed=[0, 1], max_iterations=10)
    assert (solution.loss < solution.history["loss"][0]).all()
