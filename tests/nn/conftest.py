"""One thread of torch: for networks as small as those of the tests, threads wait for one another."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
