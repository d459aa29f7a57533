"""The configuration of an index: which frames, and how they are compared."""

from collections.abc import Iterable
from dataclasses import dataclass

from curl_rl.config.pretraining import Source, composed
from curl_rl.options import option


@dataclass(frozen=True, kw_only=True)
class Indexing(Source):
    """The frames of one index."""

    metric: str = option("cosine", "what is alike", one_of=("cosine", "euclidean"))


def compose_indexing(overrides: Iterable[str]) -> Indexing:
    """Return the index that overrides such as "metric=euclidean" describe. Errors: as of `compose_pretraining`."""
    return composed(Indexing, overrides, {}, "index")
