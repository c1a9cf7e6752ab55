"""What holds for every test."""

import os
from io import BytesIO

import pytest
import torch
from PIL import Image

# The tensors here are so small that a second thread costs more than it brings.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))


def pytest_runtest_setup() -> None:
    """Numbers drawn without a seed are the same whatever tests ran before."""
    torch.manual_seed(0)


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what runs draw with matplotlib: a third of a second for each, and tests of its own look at it."""

    class Blank:
        def savefig(self, file: BytesIO, **_: object) -> None:
            Image.new("RGB", (8, 8)).save(file, "PNG")

    monkeypatch.setattr("guideflow.plot.figure", lambda solution: Blank())
