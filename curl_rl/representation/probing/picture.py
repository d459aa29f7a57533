"""What is near to what: frames beside those whose features are nearest, as one picture."""

import torch
from torch import Tensor
from torch.nn import functional as F

from curl_rl.representation.frames.base import Frames

_QUERIES, _NEAREST, _SIDE = 6, 6, 84  # rows, columns beside the query, pixels of a tile at least


def neighbours_picture(frames: Frames, features: Tensor, *, seed: int = 0) -> Tensor:
    """Return (1 or 3, H, W) uint8: in each row a frame, then those of other episodes whose features are nearest.

    Args: features (N, d).
    """
    features = F.normalize(features, dim=1)
    queries = torch.randperm(len(frames), generator=torch.Generator().manual_seed(seed))[:_QUERIES]
    cosine = features[queries] @ features.T
    cosine[frames.episodes[queries][:, None] == frames.episodes] = -2  # below all
    nearest = cosine.topk(min(_NEAREST, len(frames)), dim=1).indices
    tiles = frames.newest(torch.cat((queries[:, None], nearest), 1).flatten())
    tiles = tiles[:, : 3 if tiles.shape[1] >= 3 else 1]
    scale = -(-_SIDE // tiles.shape[-1])
    tiles = F.pad(tiles.repeat_interleave(scale, 2).repeat_interleave(scale, 3), (2, 2, 2, 2), value=255)
    rows = tiles.unflatten(0, (len(queries), -1))  # (rows, columns, C, h, w)
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
