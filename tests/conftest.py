"""What holds for every test."""

import os

import torch

# The tensors here are so small that a second thread costs more than it brings.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))


def pytest_runtest_setup() -> None:
    """Numbers drawn without a seed are the same whatever tests ran before."""
    torch.manual_seed(0)
