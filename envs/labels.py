"""The size of label maps, which say what object each cell of a frame shows."""

from curl_rl.envs.errors import EnvError

_CELL = 4  # pixels of the frame along a side of a cell


def label_side(image_size: int) -> int:
    """Return how many cells a label map of a frame has along each side."""
    return image_size // _CELL


def check_labels(labels: bool, obs: str, image_size: int) -> None:
    """Raise EnvError where label maps are wanted of what has no image, or one smaller than a cell."""
    if labels and (obs != "pixels" or not label_side(image_size)):
        raise EnvError(f"labels need obs='pixels' and image_size of at least {_CELL}, not {obs!r} and {image_size}")
