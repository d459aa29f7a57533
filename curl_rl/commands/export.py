"""curl-rl export."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from curl_rl.commands.arguments import add_command, path


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_command(commands, "export", run, "write a run's encoder, or a pre-trained one, to be taken elsewhere")
    parser.add_argument("source", type=path, metavar="SOURCE", help="run directory, or an encoder's folder")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="where to write it")
    parser.add_argument(
        "--format",
        choices=["folder", "onnx", "hub"],
        default="folder",
        help="folder: load_encoder reads it; onnx: model.onnx; hub: a folder with a model card (default: %(default)s)",
    )
    parser.add_argument("--probe", type=path, metavar="CSV", help="of curl-rl probe, whose results hub's card shows")


def run(arguments: argparse.Namespace) -> int:
    """Write the encoder."""
    from curl_rl.types import ConfigError

    if arguments.probe and arguments.format != "hub":
        raise ConfigError(f"--probe has no effect with --format {arguments.format}: give --format hub")
    try:
        written = _FORMATS[arguments.format](arguments)
    except ImportError as error:  # of an extra, which the message names
        raise ConfigError(str(error)) from error
    print(f"wrote {written}")
    return 0


def _folder(arguments: argparse.Namespace) -> Path:
    from curl_rl.representation.export import copy_encoder, export_run

    make = copy_encoder if _is_encoder(arguments.source) else export_run
    return make(arguments.source, arguments.out)


def _onnx(arguments: argparse.Namespace) -> Path:
    from curl_rl.adapters.onnx import FILE, write_onnx

    with _encoder_of(arguments) as folder:
        return write_onnx(folder, arguments.out / FILE)


def _hub(arguments: argparse.Namespace) -> Path:
    from curl_rl.adapters.hub import write_hub

    with _encoder_of(arguments) as folder:
        return write_hub(folder, arguments.out, probe=arguments.probe)


_FORMATS = {"folder": _folder, "onnx": _onnx, "hub": _hub}


@contextmanager
def _encoder_of(arguments: argparse.Namespace) -> Iterator[Path]:
    """Give the source as an encoder's folder, a run's in a place that is gone afterwards."""
    from curl_rl.representation.export import check_place, export_run

    check_place(arguments.out)
    if _is_encoder(arguments.source):
        yield arguments.source
        return
    with tempfile.TemporaryDirectory() as place:
        yield export_run(arguments.source, Path(place, "encoder"))


def _is_encoder(source: Path) -> bool:
    from curl_rl.representation.export import WEIGHTS, EncoderError, read_description

    with suppress(EncoderError, OSError):
        return bool(read_description(source))
    return (source / WEIGHTS).exists()
