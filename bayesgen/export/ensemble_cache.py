"""Keys and values of every draw, as one cache of transformers."""

from __future__ import annotations

from typing import Any

from transformers import Cache, DynamicCache


class EnsembleCache(Cache):  # type: ignore[misc]
    """The layers of all draws' caches, one draw after the other.

    What is done to a cache as a whole (reordering beams, cropping, repeating or choosing rows) is
    done by transformers layer by layer, so that it reaches every draw; each draw's network is given
    its own part of the same layers. Lengths are those of the first draw, as of any other.

    Args:
        count: how many draws.
        config: of the network, which says what its layers keep.

    Attributes:
        draws: the cache of each draw.
    """

    def __init__(self, count: int, config: Any) -> None:
        self.draws = [DynamicCache(config=config) for _ in range(count)]
        super().__init__(layers=[layer for cache in self.draws for layer in cache.layers])
