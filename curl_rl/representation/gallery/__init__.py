"""An index of frames to be looked at: one page with a map of its embeddings, a file or served."""

from curl_rl.representation.gallery.contents import Gallery
from curl_rl.representation.gallery.page import build_gallery
from curl_rl.representation.gallery.projector import write_projector
from curl_rl.representation.gallery.serving import serve

__all__ = ["Gallery", "build_gallery", "serve", "write_projector"]
