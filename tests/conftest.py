"""Keep the tests small guests on a shared machine."""

import torch

torch.set_num_threads(1)
