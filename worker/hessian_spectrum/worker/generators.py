"""Seeds made into generators of random numbers: the one place where that happens."""

import numpy as np
import torch

_NUM_SHORT_BITS = 32
"""As many bits of a seed are all that PyTorch's Mersenne Twister takes in on the CPU; it drops the others."""

_STATE_WORDS = slice(3, 627)
"""Where a CPU generator's serialised state holds the 624 words of the Mersenne Twister, in units of eight bytes."""


def generator_of(seed: int, *purpose: int) -> torch.Generator:
    """A generator whose numbers depend on every bit of the seed.

    It lives on the CPU, so that its numbers do not depend on the device of the computation. Seeds below 2^32 start the
    generator as `torch.manual_seed` does. Larger ones fill its whole state, as numpy seeds the same algorithm.

    Args:
        seed: at least 0.
        purpose: what the numbers are for, so that generators of one seed are independent of each other.
    """
    if seed >> _NUM_SHORT_BITS:
        return _filled_generator(np.random.SeedSequence(seed, spawn_key=purpose))
    if purpose:
        seed = int(np.random.SeedSequence((seed, *purpose)).generate_state(1)[0])
    return torch.Generator().manual_seed(seed)


def _filled_generator(sequence: np.random.SeedSequence) -> torch.Generator:
    twister = np.random.MT19937(sequence).state["state"]
    generator = torch.Generator().manual_seed(0)  # which draws new words before the first number
    state = generator.get_state()
    state.view(torch.int64)[_STATE_WORDS] = torch.from_numpy(twister["key"].astype(np.int64))
    generator.set_state(state)
    return generator
