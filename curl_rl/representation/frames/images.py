"""Frames from a folder of images."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curl_rl.representation.frames.base import Frames
from curl_rl.representation.frames.pictures import Form, collect
from curl_rl.types import ConfigError

SUFFIXES = (".png", ".jpg", ".jpeg")


def read_images(
    folder: Path, *, form: Form, order: str = "", classes: str = "", stack: int = 1, skip_bad: bool = False
) -> Frames:
    """Read every PNG and JPEG below a folder; a frame's name is its path in it.

    Args: order, "name" where the files of a folder are a sequence in the order of their names (2 before 10), an episode
    each folder; classes, "folder" where the folder's name is the class.
    """
    paths = sorted((path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES), key=_natural)
    if not paths:
        raise ConfigError(f"{folder} has no image: give a folder with files {', '.join(SUFFIXES)}")
    images, kept = collect(paths, lambda path: read_image(path, form), skip_bad=skip_bad)
    found: dict[str, Any] = {"names": [path.relative_to(folder).as_posix() for path in kept]}
    parents = [path.parent for path in kept]
    if order:
        places = {parent: number for number, parent in enumerate(dict.fromkeys(parents))}
        found |= {"ordered": True, "episode": torch.tensor([places[parent] for parent in parents])}
    if classes:
        names = sorted({parent.name for parent in parents})
        found |= {"class_names": names, "classes": torch.tensor([names.index(parent.name) for parent in parents])}
    return Frames(images, source=str(folder), stack=stack, **found)


def read_image(path: Path, form: Form) -> np.ndarray:
    """Return an image file as (C, H, W) uint8. Raises ConfigError where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()
            return form.of(picture)
    except ConfigError:
        raise
    except Exception as error:  # a damaged file raises almost anything
        told = str(error).partition("\n")[0].replace(str(path), "it") or type(error).__name__
        raise ConfigError(f"it cannot be read ({told}): mend or remove it") from None


def _natural(path: Path) -> list[Any]:
    """Return what puts 2 before 10, a folder's own files together."""
    parts = re.split(r"(\d+)", path.name)
    return [path.parent.as_posix(), *((int(part), "") if part.isdigit() else (-1, part) for part in parts)]
