"""Seeding of all randomness in training.

All generators are seeded again for each batch, so that a resumed run needs no generator states and repeats the
uninterrupted one.
"""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(*key: int) -> None:
    """Seed Python's, numpy's and torch's global generators (all devices) from a tuple of non-negative integers."""
    words = np.random.SeedSequence(key).generate_state(2, np.uint32)
    seed = (int(words[0]) << 32) | int(words[1])
    random.seed(seed)
    np.random.seed(words)
    torch.manual_seed(seed)
