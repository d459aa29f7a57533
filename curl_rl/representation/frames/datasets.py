"""Frames from any torch Dataset of images, or of pairs (image, class)."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curl_rl.representation.frames.base import Frames
from curl_rl.representation.frames.pictures import Form, collect
from curl_rl.types import ConfigError

_CHANNELS = 4  # a side of so few numbers, and no other such, is no height and no width


def read_dataset(dataset: Any, *, form: Form, skip_bad: bool = False) -> Frames:
    """Read every item of a dataset with a length: tensors (C, H, W), arrays (H, W, C) or (H, W), or Pillow images.

    Raises ConfigError for floats, whose scale nobody knows, for items of several sizes, and for images some of which
    have a class.
    """
    source = type(dataset).__name__
    if not len(dataset):
        raise ConfigError(f"{source} has no item: give images, or pairs (image, class)")
    found = dict[int, int]()

    def read(index: int) -> np.ndarray:
        item = dataset[index]
        if isinstance(item, Sequence) and not isinstance(item, str | bytes) and len(item) in (1, 2):
            found.update((index, _class(each)) for each in item[1:])
            item = item[0]
        return _pixels(item, form)

    images, kept = collect(range(len(dataset)), read, called=lambda index: f"{source}[{index}]", skip_bad=skip_bad)
    names = getattr(dataset, "classes", ())
    if found and (bare := [i for i in kept if i not in found]):
        raise ConfigError(f"{source}[{bare[0]}] has no class, and others have: give all of them one, or none")
    known = {"classes": torch.tensor([found[i] for i in kept]), "class_names": names} if found else {}
    return Frames(images, source=source, names=[str(index) for index in kept], **known)


def _class(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"its class is {type(value).__name__}: give pairs (image, whole number)") from None


def _pixels(item: Any, form: Form) -> np.ndarray:
    if isinstance(item, Tensor):
        if item.dim() == 3 and item.shape[2] <= _CHANNELS < min(item.shape[:2]):
            raise ConfigError(f"it is a tensor {tuple(item.shape)} with its channels last: give item.permute(2, 0, 1)")
        item = np.asarray(item.permute(1, 2, 0) if item.dim() == 3 else item)
    elif isinstance(item, np.ndarray) and item.ndim == 3 and item.shape[0] <= _CHANNELS < min(item.shape[1:]):
        raise ConfigError(f"it is an array {item.shape} with its channels first: give torch.from_numpy(item)")
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8:
            raise ConfigError(
                f"it is of {item.dtype}, whose scale is not known: give uint8, as "
                "torchvision.transforms.PILToTensor does, and leave scaling to the encoder"
            )
        if item.ndim not in (2, 3):
            raise ConfigError(f"it has the shape {item.shape}: give tensors (C, H, W) or arrays (H, W, C)")
        return form.of_array(item)
    if hasattr(item, "mode") and hasattr(item, "convert"):
        return form.of(item)
    raise ConfigError(f"it is {type(item).__name__}: give images as tensors, arrays or Pillow images")
