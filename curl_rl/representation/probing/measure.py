"""What trained encoders know: probes of their frozen features, with pixels and an untrained encoder beside."""

import copy
import dataclasses
import functools
import re
import shlex
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from curl_rl.config.pretraining import check_own_stack
from curl_rl.nn.encoders import Encoder, make_encoder
from curl_rl.nn.images import center_fit
from curl_rl.options import repeated, shown
from curl_rl.representation.composing import check_effect
from curl_rl.representation.export import ExportedEncoder, load_encoder
from curl_rl.representation.frames import Frames, frames_of
from curl_rl.representation.index.pictures import png
from curl_rl.representation.looking import as_seen, device_of, exported
from curl_rl.representation.probes import PROBES, Probe, choose
from curl_rl.representation.probes.base import Subject, look_through, shrunk
from curl_rl.representation.probing.picture import neighbours_picture
from curl_rl.representation.tap import Tap, unchanged
from curl_rl.run.device import choose_device
from curl_rl.run.files import check_folder, write_whole
from curl_rl.run.folder import weights_hash
from curl_rl.run.measurements import drop_rows, made_by, merge_rows, read_rows
from curl_rl.types import ConfigError

TABLE, PICTURES = "probe.csv", "pictures"
PIXELS, UNTRAINED = "pixels", "untrained"  # what always stands beside


class Asked(NamedTuple):
    """All that decides what a probe finds, as a table's columns hold it."""

    subject: str  # alike for encoders that differ in their seed alone
    encoder: str
    kind: str  # what encoders have in common that differ in their weights alone; empty of the pixels
    weights: str  # their hash; empty of the pixels
    data: str  # CRC-32 of the frames
    probe: str
    options: str
    seed: str


Row = dict[str, Any]  # Asked's columns, then layer, quantity and value


class _Candidate(NamedTuple):
    """An encoder to probe, None for the pixels, and the seeds by which it is measured."""

    subject: str
    encoder: str
    kind: str
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

    Weights and buffers stay as they are. Raises ConfigError for frames that an encoder does not take, or of which a
    probe cannot be asked, and for encoders that are called as what stands beside.
    """
    frames = frames_of(frames)
    probes = probes or choose((), frames.gives, frames.source)
    modules = {name: exported(encoder) for name, encoder in encoders.items()}
    for name, module in modules.items():
        if name.startswith((PIXELS, UNTRAINED)):
            raise ConfigError(f"an encoder is called {name}, as what stands beside is: rename it")
        as_seen(frames, module, name)
    for each in probes:
        each.check(frames)
    for candidate in _candidates(modules, seeds):
        subject, rows = _subject(candidate, frames), list[Row]()
        asked = [(each, _asked(candidate, each, frames, seed)) for each in probes for seed in candidate.seeds]
        with unchanged(candidate.module, candidate.encoder) if candidate.module else nullcontext():
            for each, question in asked:
                if question not in known:
                    rows += _measured(question, subject, each)
        yield subject, rows


def _asked(candidate: _Candidate, each: Probe, frames: Frames, seed: int) -> Asked:
    options = {key: value for key, value in dataclasses.asdict(each.config).items() if key != "name"}
    told = " ".join(f"{key}={value}" for key, value in options.items())
    return Asked(*candidate[:4], f"{frames.checksum:08x}", each.config.name, told, str(seed))


def _measured(asked: Asked, subject: Subject, each: Probe) -> Iterator[Row]:
    found: dict[str, dict[str, float]] = {}
    for layer in each.layers:
        if layer not in subject.layers:
            continue
        # Features that are the map itself, of an encoder without a head, are not measured twice.
        same = [known for known in found if torch.equal(subject.vectors(known), subject.vectors(layer))]
        found[layer] = found[same[0]] if same else each.measure(subject, layer, int(asked.seed))
        for quantity, value in found[layer].items():
            yield {**asked._asdict(), "layer": layer, "quantity": quantity, "value": value}


def _candidates(encoders: Mapping[str, ExportedEncoder], seeds: int) -> Iterator[_Candidate]:
    every = range(1, seeds + 1)
    yield _Candidate(PIXELS, PIXELS, "", "", None, every)
    kinds = {_kind(module): module for module in encoders.values()}
    for kind, module in kinds.items():
        title = f"{UNTRAINED} {kind}"
        for seed in every:
            blank = _untrained(module, seed)
            yield _Candidate(title, f"{title}-seed{seed}", kind, _hash(blank), blank, [seed])
    for name, module in encoders.items():
        yield _Candidate(re.sub(r"-seed\d+$", "", name), name, _kind(module), _hash(module), module, every)


def _hash(module: ExportedEncoder) -> str:
    return weights_hash(module.encoder)[:12]


def _kind(module: ExportedEncoder) -> str:
    """Return what encoders have in common that differ in their weights alone, in words."""
    encoder, sides = module.encoder, "x".join(map(str, module.encoder.obs_shape))
    if isinstance(encoder, Tap):
        return f"{encoder.config['network'].rpartition(':')[2]} {encoder.layer} {sides}".replace("  ", " ")
    config, usual = dataclasses.asdict(encoder.config), dataclasses.asdict(type(encoder.config)())
    return " ".join([config["name"], sides, *(f"{k}={shown(v)}" for k, v in config.items() if v != usual[k])])


def _untrained(module: ExportedEncoder, seed: int) -> ExportedEncoder:
    """Return an encoder of the same kind as it is initialised."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(module.encoder, Tap):
            encoder = _begun_anew(module.encoder)
        else:
            encoder = make_encoder(module.encoder.config, module.encoder.obs_shape)
    return ExportedEncoder(encoder, module.obs_shape).to(device_of(module)).eval()


def _begun_anew(tap: Tap) -> Tap:
    """Return a copy of a network, each part of it initialised. Raises ConfigError for a part that cannot be."""
    anew = copy.deepcopy(tap)
    for name, part in anew.net.named_modules():
        if callable(reset := getattr(part, "reset_parameters", None)):
            reset()
        elif own := [key for key, _ in part.named_parameters(recurse=False)]:
            raise ConfigError(
                f"no untrained network can stand beside: {type(part).__name__} ({name or 'the whole'}) has "
                f"{', '.join(own)} and no reset_parameters(); give its class one"
            )
    return anew


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
    check_own_stack(config)
    names = [folder.resolve().name for folder in folders]
    if twice := repeated(names):
        raise ConfigError(f"two encoders are called {twice[0]}: rename a folder")
    check_folder(out)
    frames = frames_of(config.data, **config.arguments())
    chosen = [
        type(each)(getattr(config, each.config.name, each.config))
        for each in choose(probes, frames.gives, frames.source)
    ]
    check_effect(config, PROBES, [each.config.name for each in chosen], "probe")
    place = choose_device(device)
    encoders = {name: load_encoder(folder, place) for name, folder in zip(names, folders, strict=True)}
    table, maker = out / TABLE, made_by()
    _forget(out, {name: _hash(module) for name, module in encoders.items()})
    known = _known(table, frames)
    for subject, rows in probe(encoders, frames, probes=chosen, seeds=seeds, known=known):
        if not rows:
            continue
        asked = dict(zip(names, folders, strict=True)).get(subject.name, folders[0])
        told = maker | {"command": of_one(maker["command"], folders, asked)}
        merge_rows(table, [row | told for row in rows], ("encoder", "probe", "seed"))
        print(f"{subject.name}: {len(rows)} numbers", file=sys.stderr, flush=True)
        picture = out / PICTURES / f"{rows[0]['subject']}.png"
        if not picture.is_file():  # of a subject's first encoder alone
            write_whole({picture: png(neighbours_picture(subject.frames, subject.vectors("features")))})
    return table


def of_one(command: str, folders: Sequence[Path], asked: Path) -> str:
    """Return the command that measures one of several folders again, without the others that it names."""
    others = {folder for folder in folders if folder != asked}
    return shlex.join(word for word in shlex.split(command) if Path(word) not in others)


def _known(table: Path, frames: Frames) -> set[Asked]:
    """Return what a table holds already. Raises ConfigError where it is of other frames."""
    rows, told = read_rows(table), f"{frames.checksum:08x}"
    if other := [row["data"] for row in rows if row["data"] != told]:
        raise ConfigError(f"{table} is of other frames (CRC-32 {other[0]}, these {told}): give another --out")
    return {Asked(*(row[name] for name in Asked._fields)) for row in rows}


def _forget(out: Path, weights: Mapping[str, str]) -> None:
    """Drop what a folder holds of encoders of these names that had other weights."""
    rows = read_rows(out / TABLE)
    old = {
        row["encoder"]: row["subject"] for row in rows if weights.get(row["encoder"], row["weights"]) != row["weights"]
    }
    if old:
        drop_rows(out / TABLE, lambda row: row["encoder"] in old)
        for subject in old.values():
            (out / PICTURES / f"{subject}.png").unlink(missing_ok=True)
