"""Frames without an agent: from a run, a folder of images, videos, recordings, or any torch Dataset."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from curl_rl.representation.frames import images, video
from curl_rl.representation.frames.base import Frames
from curl_rl.representation.frames.datasets import read_dataset
from curl_rl.representation.frames.pictures import check_form
from curl_rl.representation.frames.recordings import read_recordings
from curl_rl.types import ConfigError

_KINDS = {"images": images.SUFFIXES, "videos": video.SUFFIXES, "recordings": (".npz",)}
_GIVEN = "a run, a folder of images, a video, recordings (.npz)"


def frames_of(
    source: Any,
    *,
    order: str = "",
    classes: str = "",
    stack: int = 0,
    size: int = 0,
    channels: int = 0,
    every: int = 1,
    skip_bad: bool = False,
    only: Collection[str] = (),
) -> Frames:
    """Return the frames of a run's replay, a folder of images, a video or a folder of some, recordings, or a Dataset.

    Args:
        source: a path, or a torch Dataset of uint8 images or of pairs (image, class).
        order: "name" where a folder's images are a sequence; classes: "folder" where its name is their class.
        stack: frames of an observation; 0: the run's own, elsewhere 1.
        size, channels: of every image, which is resized and converted; 0: as they are.
        every: of a video one frame of so many. skip_bad: leave out images that cannot be read, and name them.
        only: paths in a folder of images that are read instead of all.

    Raises ConfigError for a source that has no frames or whose files do not fit together, and for an argument that has
    no effect on it.
    """
    form = check_form(size, channels)
    _check_word("order", order, "name")
    _check_word("classes", classes, "folder")
    given = {"order": order, "classes": classes, "stack": stack, "size": size, "channels": channels}
    given |= {"every": every != 1, "skip_bad": skip_bad, "only": only}
    if isinstance(source, Frames):
        _check_effect(given, set(), source.source)
        return source
    if not isinstance(source, str | Path):
        if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise ConfigError(f"no frames can be read of {type(source).__name__}: give {_GIVEN} or a torch Dataset")
        _check_effect(given, {"size", "channels", "skip_bad"}, type(source).__name__)
        return read_dataset(source, form=form, skip_bad=skip_bad)
    path = Path(source).expanduser()
    if (path / "config.json").is_file() and (path / "checkpoints").is_dir():
        from curl_rl.representation.frames.runs import read_run

        _check_effect(given, {"stack"}, f"the run {path}")
        return read_run(path, stack=stack)
    kind, files = ("images", []) if only else _files(path)
    if kind == "images":
        _check_effect(given, given.keys() - {"every"}, f"the images in {path}")
        named = {"order": order, "classes": classes, "skip_bad": skip_bad, "only": only}
        return images.read_images(path, form=form, stack=stack or 1, **named)
    if kind == "videos":
        _check_effect(given, {"stack", "size", "channels", "every"}, f"the video {path}")
        return video.read_videos(files, str(path), form=form, every=every, stack=stack or 1)
    _check_effect(given, {"stack"}, f"the recordings in {path}")
    return read_recordings(files, str(path), stack=stack or 1)


def _files(path: Path) -> tuple[str, list[Path]]:
    """Return the kind of files that a path has, and the files."""
    if not path.exists():
        raise ConfigError(f"there is no {path}: give {_GIVEN}")
    inside = [path] if path.is_file() else sorted(path.rglob("*"))
    found = [each for each in inside if each.is_file() and not _unfinished(each)]
    kinds = {kind: [each for each in found if each.suffix.lower() in suffixes] for kind, suffixes in _KINDS.items()}
    there = [kind for kind, files in kinds.items() if files]
    if not there or (there == ["images"] and path.is_file()):
        raise ConfigError(f"{path} has no frames: give {_GIVEN}")
    if len(there) > 1:
        raise ConfigError(f"{path} has {' and '.join(there)}: give a folder of one kind")
    return there[0], kinds[there[0]]


def _unfinished(path: Path) -> bool:
    """Return whether a file is a recording that is being written."""
    return path.name.startswith("tmp-episode-")


def _check_word(name: str, value: str, word: str) -> None:
    if value not in ("", word):
        raise ConfigError(f"{name} is {word!r} or nothing, got {value!r}")


def _check_effect(given: dict[str, Any], taken: Collection[str], source: str) -> None:
    if idle := [name for name, value in given.items() if value and name not in taken]:
        raise ConfigError(f"{' and '.join(idle)} would have no effect on {source}: leave it out")
