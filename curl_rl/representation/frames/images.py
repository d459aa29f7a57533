"""Frames from a folder of images."""

import difflib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curl_rl.representation.frames.base import Frames
from curl_rl.representation.frames.pictures import BadPictureError, Form, collect
from curl_rl.types import ConfigError

SUFFIXES = (".png", ".jpg", ".jpeg")
_SHOWN = 3  # of the names that are at fault


def read_images(
    folder: Path,
    *,
    form: Form,
    order: str = "",
    classes: str = "",
    stack: int = 1,
    skip_bad: bool = False,
    only: Collection[str] = (),
) -> Frames:
    """Read every PNG and JPEG below a folder; a frame's name is its path in it.

    Args: only, names of those that are read instead of all; order, "name" where the files of a folder are a sequence in
    the order of their names (2 before 10), an episode each folder; classes, "folder" where the folder's name is the
    class.
    """
    if not (paths := _named(folder, only) if only else _all(folder)):
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


def _all(folder: Path) -> list[Path]:
    """Return every image file below a folder, 2 before 10."""
    found = sorted((path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES), key=_natural)
    if odd := [path for path in found if "\udc80" <= max(path.as_posix()) <= "\udcff"]:
        raise ConfigError(f"{odd[0].as_posix()!r} is no name in UTF-8: rename the file")
    return found


def _named(folder: Path, names: Collection[str]) -> list[Path]:
    """Return the files of some names in the same order. Raises ConfigError for those that are not there."""
    if absolute := [name for name in names if Path(name).is_absolute()]:
        raise ConfigError(f"{absolute[0]!r} is no path in {folder}: give names relative to it")
    there = {name for name in names if (folder / name).is_file()}
    if len(there) < len(names):
        check_names(names, [*there, *(path.relative_to(folder).as_posix() for path in _all(folder))], str(folder))
    return sorted((folder / name for name in names), key=_natural)


def spelled(name: str, known: Collection[str]) -> str:
    """Return the known name that one from a table is, which has no spaces at its ends; as it is where there is none."""
    return name if name in known else next((each for each in known if each.strip() == name), name)


def check_names(wanted: Collection[str], known: Collection[str], source: str) -> None:
    """Raise ConfigError, with the nearest that there are, for names of frames that are not known."""
    if not (missing := [name for name in wanted if name not in known]):
        return
    more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
    known = list(dict.fromkeys(known))
    near = difflib.get_close_matches(missing[0], known, 3, 0.4) or known[:3]
    raise ConfigError(
        f"{source} has no frame {', '.join(map(repr, missing[:_SHOWN]))}{more}; there are, among others, "
        f"{', '.join(near) or 'none'}"
    )


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
        raise BadPictureError(f"it cannot be read ({told}): mend or remove it") from None


def _natural(path: Path) -> list[Any]:
    """Return what puts 2 before 10, a folder's own files together."""
    parts = re.split(r"(\d+)", path.name)
    return [path.parent.as_posix(), *((int(part), "") if part.isdecimal() else (-1, part) for part in parts)]
