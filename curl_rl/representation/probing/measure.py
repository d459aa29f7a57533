"""What trained encoders know: probes of their frozen features, with pixels and an untrained encoder beside."""

import copy
import dataclasses
import functools
import io
import re
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from curl_rl.nn.encoders import Encoder, encoder_config, make_encoder
from curl_rl.nn.images import center_fit
from curl_rl.representation.export import ExportedEncoder, load_encoder
from curl_rl.representation.frames import Frames, frames_of
from curl_rl.representation.looking import as_seen, exported
from curl_rl.representation.probes import Probe, choose
from curl_rl.representation.probes.base import Subject, look_through, shrunk
from curl_rl.representation.probing.picture import neighbours_picture
from curl_rl.representation.tap import Tap
from curl_rl.run.device import choose_device
from curl_rl.run.files import check_folder, write_whole
from curl_rl.run.folder import weights_hash
from curl_rl.run.measurements import made_by, merge_rows, read_rows
from curl_rl.types import ConfigError

TABLE, PICTURES = "probe.csv", "pictures"
PIXELS, UNTRAINED = "pixels", "untrained"  # what always stands beside


class Asked(NamedTuple):
    """All that decides what a probe finds, as a table's columns hold it."""

    subject: str  # alike for encoders that differ in their seed alone
    encoder: str
    weights: str  # their hash; empty of what was not trained
    data: str  # CRC-32 of the frames
    probe: str
    options: str
    seed: str


Row = dict[str, Any]  # Asked's columns, then layer, quantity and value


class _Candidate(NamedTuple):
    """An encoder to probe, None for the pixels, and the seeds by which it is measured."""

    subject: str
    encoder: str
    weights: str
    module: ExportedEncoder | None
    seeds: Sequence[int]


def probe(
    encoders: Mapping[str, ExportedEncoder | Encoder],
    frames: Any,
    *,
    probes: Sequence[Probe] = (),
    seeds: int = 3,
    known: Container[Asked] = (),
) -> Iterator[tuple[Subject, list[Row]]]:
    """Measure what encoders know of frames, after the pixels and untrained encoders of their kinds; yield each's rows.

    Args:
        encoders: by name; those alike but for "-seed<n>" at their end are one subject.
        frames: what `frames_of` takes.
        probes: which; all that the frames can answer unless given.
        seeds: of splits, of few labelled frames and of the untrained encoders, from 1 on.
        known: what is left out.

    Weights and buffers stay as they are. Raises ConfigError for frames that an encoder does not take.
    """
    frames = frames_of(frames)
    probes = probes or choose((), frames.gives, frames.source)
    modules = {name: exported(encoder) for name, encoder in encoders.items()}
    for name, module in modules.items():
        as_seen(frames, module, name)
    for candidate in _candidates(modules, seeds):
        subject, rows = _subject(candidate, frames), list[Row]()
        for each in probes:
            for seed in candidate.seeds:
                if (asked := _asked(candidate, each, frames, seed)) not in known:
                    rows += _measured(asked, subject, each, seed)
        yield subject, rows


def _asked(candidate: _Candidate, each: Probe, frames: Frames, seed: int) -> Asked:
    options = {key: value for key, value in dataclasses.asdict(each.config).items() if key != "name"}
    told = " ".join(f"{key}={value}" for key, value in options.items())
    return Asked(*candidate[:3], f"{frames.checksum:08x}", each.config.name, told, str(seed))


def _measured(asked: Asked, subject: Subject, each: Probe, seed: int) -> Iterator[Row]:
    for layer in each.layers:
        if layer in subject.layers:
            for quantity, value in each.measure(subject, layer, seed).items():
                yield {**asked._asdict(), "layer": layer, "quantity": quantity, "value": value}


def _candidates(encoders: Mapping[str, ExportedEncoder], seeds: int) -> Iterator[_Candidate]:
    every = range(1, seeds + 1)
    yield _Candidate(PIXELS, PIXELS, "", None, every)
    kinds = {repr(_kind(module)): module for module in encoders.values()}
    for module in kinds.values():
        title = UNTRAINED if len(kinds) == 1 else f"{UNTRAINED} {_kind(module)[0]['name']}"
        for seed in every:
            yield _Candidate(title, f"{title}-seed{seed}", "", _untrained(module, seed), [seed])
    for name, module in encoders.items():
        yield _Candidate(re.sub(r"-seed\d+$", "", name), name, weights_hash(module.encoder)[:12], module, every)


def _kind(module: ExportedEncoder) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Return what encoders have in common that differ in their weights alone."""
    config = module.encoder.config
    return config if isinstance(config, dict) else dataclasses.asdict(config), module.encoder.obs_shape


def _untrained(module: ExportedEncoder, seed: int) -> ExportedEncoder:
    """Return an encoder of the same kind as it is initialised."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(module.encoder, Tap):
            encoder = copy.deepcopy(module.encoder)
            for part in encoder.modules():
                if callable(reset := getattr(part, "reset_parameters", None)):
                    reset()
        else:
            config, shape = _kind(module)
            encoder = make_encoder(encoder_config(**config), shape)
    return ExportedEncoder(encoder, module.obs_shape).to(next(module.parameters()).device).eval()


def _subject(candidate: _Candidate, frames: Frames) -> Subject:
    if (module := candidate.module) is None:
        return Subject(candidate.subject, shrunk, frames)
    whole = functools.partial(center_fit, size=module.encoder.obs_shape[-1])
    return Subject(candidate.encoder, look_through(module.encoder, whole), as_seen(frames, module, candidate.encoder))


def probe_folders(
    folders: Sequence[Path], out: Path, config: Any, *, probes: Sequence[str] = (), seeds: int = 3, device: str = "auto"
) -> Path:
    """Probe encoders' folders; write `probe.csv` and pictures of neighbours into `out`, or go on where it stopped.

    Args: config, of `compose_probing`; probes, names, all that the frames can answer unless given.

    Returns the table's path. Raises ConfigError where names or frames do not fit, before anything is measured.
    """
    names = [folder.resolve().name for folder in folders]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two encoders are called {twice[0]}: rename a folder")
    check_folder(out)
    frames = frames_of(config.data, **config.arguments())
    chosen = [
        type(each)(getattr(config, each.config.name, each.config))
        for each in choose(probes, frames.gives, frames.source)
    ]
    place = choose_device(device)
    encoders = {name: load_encoder(folder, place) for name, folder in zip(names, folders, strict=True)}
    table, maker, known = out / TABLE, made_by(), _known(out / TABLE, frames)
    for subject, rows in probe(encoders, frames, probes=chosen, seeds=seeds, known=known):
        if not rows:
            continue
        merge_rows(table, [row | maker for row in rows], ("encoder", "probe", "seed"))
        print(f"{subject.name}: {len(rows)} numbers", file=sys.stderr, flush=True)
        picture = out / PICTURES / f"{rows[0]['subject']}.png"
        if not picture.is_file():  # of a subject's first encoder alone
            write_whole({picture: _picture(subject)})
    return table


def _known(table: Path, frames: Frames) -> set[Asked]:
    """Return what a table holds already. Raises ConfigError where it is of other frames."""
    rows, told = read_rows(table), f"{frames.checksum:08x}"
    if other := [row["data"] for row in rows if row["data"] != told]:
        raise ConfigError(f"{table} is of other frames (CRC-32 {other[0]}, these {told}): give another --out")
    return {Asked(*(row[name] for name in Asked._fields)) for row in rows}


def _picture(subject: Subject) -> bytes:
    from PIL import Image

    pixels = neighbours_picture(subject.frames, subject.vectors("features")).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()
