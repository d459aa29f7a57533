"""An encoder's folder, config.json and model.safetensors, and parts beside: written whole, checked when read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from curl_rl.run.documents import CONFIG
from curl_rl.run.files import write_whole
from curl_rl.types import ConfigError

WEIGHTS = "model.safetensors"
_HASH = "weights"  # of a part, under its name in the description


class EncoderError(ConfigError):
    """An exported encoder that cannot be used; the message names file, fault and mend."""


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return weights and buffers as a folder holds them."""
    return {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()}


def weights_hash(module: nn.Module) -> str:
    """Return the hash of weights and buffers; of an encoder `weights` in the config.json of its folder."""
    return tensors_hash(tensors_of(module))


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the hash of tensors by their names, which `weights_hash` is of a module's."""
    return _hash(save({name: tensor.contiguous() for name, tensor in tensors.items()}))


class Part(NamedTuple):
    """What stands beside an encoder: tensors, and what the description says of them, as plain data."""

    told: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def write_folder(
    out: Path, tensors: Mapping[str, Tensor], described: Mapping[str, Any], parts: Mapping[str, Part] | None = None
) -> None:
    """Write weights and what describes them; an older folder stays whole until the new one is."""
    weights = save(dict(tensors))
    saved = {name: save(dict(part.tensors)) for name, part in (parts or {}).items()}
    described = {**described, "weights": _hash(weights)}
    if parts:
        described["parts"] = {name: {**parts[name].told, _HASH: _hash(content)} for name, content in saved.items()}
    described["checksum"] = _checksum(described)
    beside = {out / _file(name): content for name, content in saved.items()}
    # The description last: of two exports it fits one's weights.
    write_whole({out / WEIGHTS: weights, **beside, out / CONFIG: f"{json.dumps(described, indent=2)}\n"})


def read_folder(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a folder says of itself, and its weights; both are checked by their checksums.

    Raises FileNotFoundError where it is no encoder's folder, EncoderError where it is no longer as it was written.
    """
    weights = _read(path, WEIGHTS)  # first: a run's directory has a config.json too
    described = read_description(path)
    return described, _loaded(path, WEIGHTS, weights, described.get("weights"))


def read_part(path: Path, described: Mapping[str, Any], name: str) -> Part | None:
    """Return what stands beside the encoder of a folder under a name, None where its description has no such part.

    Raises EncoderError where it is no longer as it was written.
    """
    file = _file(name)
    try:
        if (told := described.get("parts", {}).get(name)) is None:
            return None
        rest = {key: value for key, value in told.items() if key != _HASH}
        return Part(rest, _loaded(path, file, _read(path, file), told[_HASH]))
    except (LookupError, TypeError, AttributeError) as error:
        raise damaged(path, CONFIG, f"it describes no {name}") from error
    except FileNotFoundError as error:
        raise damaged(path, file, "it is missing") from error


def part_files(path: Path, described: Mapping[str, Any]) -> list[str]:
    """Return the names of the files beside a folder's encoder, each checked. Raises as `read_part`."""
    names = list(described.get("parts", {}))
    return [_file(name) for name in names if read_part(path, described, name)]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file(part: str) -> str:
    return f"{part}.safetensors"


def _loaded(path: Path, name: str, content: bytes, checksum: Any) -> dict[str, Tensor]:
    """Return the weights that a file holds, checked by their hash."""
    if _hash(content) != checksum:
        raise damaged(path, name, f"its checksum is not the one in {CONFIG}")
    try:
        return load(content)
    except (SafetensorError, ValueError, LookupError, RuntimeError) as error:
        raise damaged(path, name, str(error)) from error


def read_description(path: Path) -> dict[str, Any]:
    """Return what an exported folder's config.json says, checked against its checksum."""
    text = _read(path, CONFIG)
    try:
        described = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, CONFIG, f"it is no JSON ({error})") from error
    if not isinstance(described, dict) or "checksum" not in described:
        raise damaged(path, CONFIG, "it has no checksum; a run's or another version's file has none either")
    if described.pop("checksum") != _checksum(described):
        raise damaged(path, CONFIG, "it is not as it was exported, by its checksum")
    return described


def misfit(encoder: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """Return why these weights are not an encoder's, "" where they are; cheap where it is blank, whatever its sizes."""
    wanted = encoder.state_dict()
    if odd := sorted(wanted.keys() ^ tensors.keys()):
        return f"{odd[0]} is {'missing' if odd[0] in wanted else 'in excess'}"
    for key, tensor in tensors.items():
        found, described = _kind(tensor), _kind(wanted[key])
        if found != described:
            return f"{key} is {found}, by its description {described}"
        if not tensor.isfinite().all():
            return f"{key} holds values that are not finite"
    return ""


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {dtype_name(tensor)}"


def dtype_name(tensor: Tensor) -> str:
    """Return what a message calls the type of a tensor's numbers."""
    return str(tensor.dtype).removeprefix("torch.")


def _read(path: Path, name: str) -> bytes:
    file = path / name
    if not file.is_file():
        fault, first = ("is no file", f"move {path} away, then ") if file.exists() else ("is missing", "")
        raise FileNotFoundError(
            f"no exported encoder in {path} ({name} {fault}): {first}curl-rl export RUN --out {path}"
        )
    try:
        return file.read_bytes()
    except OSError as error:
        raise OSError(f"cannot read {file}: {error.strerror}; make it readable") from error


def damaged(path: Path, name: str, fault: str) -> EncoderError:
    """Return the error that a file of a folder is not as it was written."""
    return EncoderError(
        f"{path / name} cannot be used: {fault}; export it again: curl-rl export RUN --out {path}, or train it again"
    )


def _checksum(described: Mapping[str, Any]) -> str:
    return _hash(json.dumps(described, sort_keys=True).encode())
