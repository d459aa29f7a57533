"""The seeds of a run: one for each purpose, all of the run's own."""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a seed is drawn for: no two uses of one run's seed share a random stream."""

    LOOP = 0
    TRAINING = 1
    EVALUATION = 2
    COMMAND = 3
    OBJECTIVE = 4
    RECORDING = 5


def derive_seed(seed: int, *purpose: int) -> int:
    """Return the 31-bit seed of one purpose, e.g. (training, episode 7), of a run's seed."""
    return int(np.random.SeedSequence([seed, *purpose]).generate_state(1)[0] >> 1)
