"""What is like nothing that was learned from: how unknown a frame is, which frames are, and how they are learned."""

from curl_rl.representation.unknowns.incremental import Incremental
from curl_rl.representation.unknowns.recogniser import Recogniser

__all__ = ["Incremental", "Recogniser"]
