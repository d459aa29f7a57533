"""Embeddings of frames that can be searched: kept as a folder of plain files, grown by what is appended."""

from curl_rl.representation.index.base import FrameIndex, Hits
from curl_rl.representation.index.folder import IndexFolderError

__all__ = ["FrameIndex", "Hits", "IndexFolderError"]
