"""Every random draw of a worker, as a pure function of what it is for.

The same (seed, round, client) gives the same draws in every process, whatever was drawn before.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from roundtable.types import Array, ClientId, Int64

_GENERATORS = 0xD2  # keeps the words of one purpose apart from those of another
_HOLDOUT = 0x401D


def _draw(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def shuffles(
    examples: int, epochs: int, seed: int, round_number: int, client: ClientId
) -> npt.NDArray[np.int32]:
    """The order of a client's examples in each local epoch: int32 [epochs, examples]."""
    draw = _draw(seed, round_number, client)
    return np.stack([draw.permutation(examples) for _ in range(epochs)]).astype(np.int32)


def generator_states(count: int, seed: int, round_number: int, client: ClientId) -> npt.NDArray[np.int64]:
    """What a model's random generators (dropout and its like) start from: int64 [count, 2], each below
    2³¹.
    """
    return _draw(seed, round_number, client, _GENERATORS).integers(0, 2**31, (count, 2), np.int64)


def held_out(indices: Int64, share: float, seed: int, client: ClientId) -> tuple[Int64, Int64]:
    """A client's examples as (to train on, held out), both sorted. ⌊share · n⌋ are held out, never all of
    them.
    """
    count = int(share * len(indices))
    if not count:
        return indices, indices[:0]
    shuffled: Array = _draw(seed, client, 0, _HOLDOUT).permutation(indices)
    return np.sort(shuffled[count:]), np.sort(shuffled[:count])
