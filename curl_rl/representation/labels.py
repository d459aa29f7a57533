"""Labels of frames: a CSV file of names and classes, and the frames that it is of."""

import csv
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from curl_rl.representation.frames import Frames, frames_of
from curl_rl.representation.frames.images import check_names, spelled
from curl_rl.run.files import csv_text
from curl_rl.types import ConfigError

Labels = str | Path | Mapping[str, str]
_HEADER = ["name", "class"]


def read_labels(path: str | Path) -> dict[str, str]:
    """Return the class of each name in a CSV file whose first row is `name,class`.

    Raises ConfigError, which names the row, for what is no such file, or gives a name two classes.
    """
    path, found = Path(path), dict[str, str]()
    for number, (name, label) in _rows(path):
        name = posixpath.normpath(name)  # noqa: PLW2901 - ./a and a are one file
        if found.setdefault(name, label) != label:
            raise ConfigError(f"{path}, row {number}: {name!r} is {label!r} here and {found[name]!r} before: keep one")
    if not found:
        raise ConfigError(f"{path} labels nothing: give a row for each frame, name and class")
    return found


def to_be_labelled(names: Sequence[str], numbers: Sequence[int] = ()) -> str:
    """Return a CSV file of names whose classes a person fills in, as `read_labels` takes it then.

    Args: numbers, of the frames, in a third column, which is to be taken out, where names do not tell them apart.
    """
    if numbers:
        return csv_text([[*_HEADER, "number"], *([name, "", each] for name, each in zip(names, numbers, strict=True))])
    return csv_text([_HEADER, *([name, ""] for name in names)])


def _rows(path: Path) -> list[tuple[int, tuple[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [[cell.strip() for cell in row] for row in csv.reader(file, strict=True)] or [[]]
    except FileNotFoundError:
        raise ConfigError(f"there is no {path}: give a CSV file with the columns name,class") from None
    except (OSError, UnicodeError, csv.Error) as error:
        told = getattr(error, "strerror", "") or str(error)
        raise ConfigError(f"{path} cannot be read as CSV ({told}): give one with the columns name,class") from None
    if header != _HEADER:
        raise ConfigError(f"{path} begins with {','.join(header)!r}: make name,class its first row")
    named = [(number, row) for number, row in enumerate(rows, 2) if row]
    for number, row in named:
        if len(row) != 2 or not all(row):
            raise ConfigError(f"{path}, row {number}: {','.join(row)!r} is no name and class: give both")
    return [(number, (row[0], row[1])) for number, row in named]


def labelled_frames(labels: Labels | None, frames: Any = None, *, least: int = 2, **arguments: Any) -> Frames:
    """Return frames with the classes that labels give them.

    Args: labels, a CSV file, or a mapping, of the frames' names to classes; without it classes are the frames' own;
    frames and arguments, what `frames_of` takes, without them the images that a CSV file names by their paths beside
    it; least, how many classes there must be. Raises ConfigError for names that no frame has, and for fewer classes.
    """
    if labels is not None and arguments.get("classes"):
        raise ConfigError("classes would have no effect beside labels: leave one of them out")
    if labels is None or isinstance(labels, Mapping):
        if frames is None:
            raise ConfigError("frames are named by nothing: give a CSV file of labels, or frames")
        found = frames_of(frames, **arguments)
        classified = named_classes(found) if labels is None else classify(found, labels)
    else:
        named = read_labels(labels)
        beside = {"source": Path(labels).parent, "only": tuple(named)} if frames is None else {"source": frames}
        found = frames_of(**beside, **arguments)
        if frames is None and arguments.get("skip_bad"):  # all are files, of which some were left out
            there = set(map(found.name, range(len(found))))
            named = {name: named[name] for name in named if name in there}
        classified = classify(found, named)
    if len(classified.class_names) < least:
        told = ", ".join(map(repr, classified.class_names))
        raise ConfigError(f"{found.source} is labelled with one class, {told}: label two or more")
    return classified


def classify(frames: Frames, labels: Mapping[str, str], class_names: Sequence[str] = ()) -> Frames:
    """Return frames whose classes are those of a mapping by name, -1 without one.

    Args: class_names, of 0, 1, ...; those that there are, sorted, unless given.

    Raises ConfigError for names that no frame has, and for classes that are not named.
    """
    labels, numbers = {str(name): label for name, label in labels.items()}, dict[str, int]()
    for i in range(len(frames)):
        name = frames.name(i)
        if numbers.setdefault(name, i) != i and name in labels:
            raise ConfigError(f"{frames.source} has two frames {name!r}: label frames whose names are their own")
    labels = {spelled(name, numbers): label for name, label in labels.items()}
    check_names(labels, numbers, frames.source)
    class_names = class_names or sorted(set(labels.values()))
    if odd := sorted(set(labels.values()) - set(class_names)):
        raise ConfigError(f"{odd[0]!r} is none of the classes {', '.join(class_names)}: label with these alone")
    classes = torch.full((len(frames),), -1)
    for name, label in labels.items():
        classes[numbers[name]] = class_names.index(label)
    return frames.classified(classes, class_names)


def named_classes(frames: Frames) -> Frames:
    """Return frames with their own classes, each with a name, of which those that none has are left out."""
    if not frames.known.any():
        raise ConfigError(f"{frames.source} has no classes: give labels, or frames that have")
    classes = frames.given("classes")
    met = classes[frames.known].unique()
    places = torch.searchsorted(met, classes).clamp(max=len(met) - 1)
    return frames.classified(torch.where(frames.known, places, -1), [frames.class_name(each) for each in met.tolist()])
