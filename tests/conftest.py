"""What holds for every test."""

import torch

# The tensors here are so small that a second thread costs more than it brings.
torch.set_num_threads(1)
