"""Chooses frames of an index as a command does: their pictures, a table to be labelled, and what chose them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from curl_rl.representation.classifier import load_classifier, logits_of
from curl_rl.representation.composing import check_effect, compose_options
from curl_rl.representation.frames import Frames
from curl_rl.representation.index import FrameIndex
from curl_rl.representation.index.folder import check_outside
from curl_rl.representation.index.pictures import png
from curl_rl.representation.index.sources import Sources
from curl_rl.representation.labels import read_labels, to_be_labelled
from curl_rl.representation.looking import as_seen
from curl_rl.representation.selecting import Doubt, nobody, select
from curl_rl.representation.selectors import SELECTORS
from curl_rl.run.device import choose_device
from curl_rl.run.files import check_folder, write_whole
from curl_rl.types import ConfigError

LABELS, DESCRIPTION, IMAGES = "labels.csv", "selection.json", "images"
_AT_ONCE = 256


def compose_selecting(overrides: Iterable[str]) -> Any:
    """Return the selectors' options that overrides such as "typical.neighbours=10" describe. Errors: as for probes."""
    return compose_options(SELECTORS, (), overrides, "select")


def select_from(
    path: Path,
    out: Path,
    config: Any,
    *,
    by: Sequence[str],
    count: int,
    labels: Path | None = None,
    classifier: Path | None = None,
    run: Path | None = None,
    link: bool = False,
    copy: bool = True,
    seed: int | None = None,
    device: str = "auto",
) -> Path:
    """Choose frames of an index and lay them out in a folder to be labelled; return the table to be filled.

    Args: config, of `compose_selecting`; labels, a CSV file of the frames that have one; classifier or run, who is
    uncertain; link, image files rather than copy them; copy, lay out pictures at all.

    Raises ConfigError for what does not fit the index, FileExistsError where `out` holds a selection, which a person
    may have labelled.
    """
    check_folder(out)
    check_outside(out, path)
    if (out / LABELS).exists() or (out / DESCRIPTION).exists():
        raise FileExistsError(f"{out} holds a selection, perhaps labelled by now: give another --out")
    index = FrameIndex.load(path)
    sources = Sources(index)
    check_effect(config, SELECTORS, by, "selection")
    asked = {"--classifier": classifier, "--run": run, "--device": device if device != "auto" else None}
    _check_idle(by, asked, seed=seed, link=link, copy=copy)
    selectors = [SELECTORS[name](getattr(config, name, SELECTORS[name].Config())) for name in by]
    labelled = read_labels(labels) if labels else {}
    chosen = select(
        index, selectors, count, labelled=labelled, doubt=_doubt(sources, classifier, run, device), seed=seed or 0
    )
    names = [index.rows.names[number] for number in chosen.tolist()]
    alone = all(len(index.numbers(name)) == 1 for name in names)
    if copy:
        files = [
            name if alone else _told_apart(name, number) for number, name in zip(chosen.tolist(), names, strict=True)
        ]
        _lay_out(sources, dict(zip(chosen.tolist(), files, strict=True)), out / IMAGES, link=link)
    told = {
        "index": {"path": str(path), "encoder": index.weights, "sources": [part.told for part in index.parts]},
        "by": [vars(selector.config) for selector in selectors],
        "seed": seed or 0,
        "labelled": len(labelled),
        "uncertain": str(classifier or run or ""),
        "chosen": [{"number": n, "name": name} for n, name in zip(chosen.tolist(), names, strict=True)],
    }
    table = to_be_labelled(names, () if alone else chosen.tolist())
    write_whole({out / LABELS: table, out / DESCRIPTION: json.dumps(told, indent=2) + "\n"})
    return out / LABELS


def _told_apart(name: str, number: int) -> str:
    """Return a name for the picture of a frame whose own name another has too."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{number} {path.name}"))


def _check_idle(by: Sequence[str], asked: Mapping[str, Any], *, seed: int | None, link: bool, copy: bool) -> None:
    """Raise ConfigError for what was given and would have no effect."""
    if seed is not None and not any(SELECTORS[name].draws for name in by):
        raise ConfigError(f"--seed has no effect on {' and '.join(by)}, which draw nothing: leave it out")
    if "uncertain" not in by and (idle := [name for name, value in asked.items() if value]):
        raise ConfigError(f"{idle[0]} has no effect without --by uncertain: add that, or leave it out")
    if link and not copy:
        raise ConfigError("--link has no effect beside --no-pictures: leave one of them out")


def _lay_out(sources: Sources, names: Mapping[int, str], place: Path, *, link: bool) -> None:
    """Copy or link the image files that frames are; write pictures of those that are none.

    Args: names, of the frames by their numbers. Raises ConfigError, before anything is written, for frames that are to
    be linked and are no files, and for names that lead out of the folder.
    """
    files = {number: sources.file(number) for number in names}
    if link and None in files.values():
        raise ConfigError("frames of runs, videos and recordings are no files that could be linked: leave --link out")
    if outside := [name for name in names.values() if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise ConfigError(f"{outside[0]!r} leads out of {place}: index the folder that it is in")
    for number, name in names.items():
        target, file = place / name, files[number]
        if file is None:
            write_whole({target.with_name(f"{target.name}.png"): png(sources.newest(number))})
        elif not link:
            write_whole({target: file.read_bytes()})
        elif not target.is_symlink():  # of a selection that was cut off
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file.resolve())


def _doubt(sources: Sources, classifier: Path | None, run: Path | None, device: str) -> Doubt:
    """Return what tells how uncertain a classifier, or the twin critics of a run's agent, are of each frame."""
    if classifier and run:
        raise ConfigError("a classifier and a run are both uncertain in their own ways: give one of them")
    if classifier:
        return lambda: _margins(sources, classifier, device)
    return (lambda: _disagreement(sources, run, device)) if run else nobody


def _margins(sources: Sources, folder: Path, device: str) -> Tensor:
    """Return (N,) how little more likely the best class is than the second."""
    model = load_classifier(folder, choose_device(device))
    seen = (as_seen(frames, model.encoder, str(folder)) for frames in sources.frames)
    best = torch.cat([logits_of(model, frames) for frames in seen]).softmax(1).topk(2).values
    return 1 - (best[:, 0] - best[:, 1])


def _disagreement(sources: Sources, run_dir: Path, device: str) -> Tensor:
    """Return (N,) how far apart the twin critics of a run's agent value what it would do."""
    from curl_rl.run.playing import load_agent
    from curl_rl.run.stored import load_config

    stack, agent = load_config(run_dir).env.frame_stack, load_agent(run_dir, device)
    if not hasattr(agent, "critic"):
        raise ConfigError(f"the agent of {run_dir} has no twin critics: give a classifier, or a run of agent=sac")
    return torch.cat([_asked(agent, frames.stacked(stack)) for frames in sources.frames])


@torch.no_grad()
def _asked(agent: Any, frames: Frames) -> Tensor:
    encoder, found = agent.learner.encoder, list[Tensor]()
    try:
        for ids in torch.arange(len(frames)).split(_AT_ONCE):
            conv = encoder.conv(agent.learner.observe(frames.obs(ids).numpy()))
            one, other = agent.critic(encoder.head(conv), agent.actor.mode(conv))
            found.append((one - other).abs().cpu())
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"the run's agent does not take {frames.source}: {error}") from None
    return torch.cat(found)
