"""An encoder on the Hugging Face Hub: its folder with a model card, pushed, pulled and checked."""

import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from curl_rl.representation.export import (
    CONFIG,
    EncoderError,
    copy_encoder,
    read_description,
    read_folder,
)

CARD = "README.md"
_FILES = (CONFIG, "*.safetensors", CARD)  # an encoder's weights, and those of the heads beside it
_KEYS = ("probe", "layer", "quantity")
_BESIDE = ("untrained", "pixels")  # what stands beside
Results = dict[tuple[str, ...], dict[str, float]]


def write_hub(
    encoder: str | Path, out: str | Path, *, probe: str | Path | None = None, license: str = "unknown"
) -> Path:
    """Copy an encoder's folder, with a model card that says how it came to be, and return the copy.

    Args: probe, a CSV of `curl-rl probe`, whose results of the encoder, found by its weights' hash, the card shows as
    means over seeds beside those of pixels and untrained encoders; license, as the Hub calls it, such as "mit".

    Raises EncoderError for a folder that was changed and for a CSV that tells nothing of the encoder, FileExistsError
    where another card is, which may have been edited.
    """
    described = read_description(Path(encoder))
    results = probe_results(probe, str(described.get("weights"))) if probe else {}
    try:
        text = card(described, results, license)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise EncoderError(f"{encoder} describes no encoder of this version ({error}): export it again") from error
    return copy_encoder(encoder, out, {CARD: text})


def push(folder: str | Path, repo_id: str, *, private: bool = True, message: str = "") -> str:
    """Upload a folder that `write_hub` wrote, after a check, and return the address of its commit.

    Args: repo_id, such as "name/reach-byol", which is made where there is none; private, whether only its owner sees
    it then. Whose token is used is `huggingface_hub`'s own matter: `hf auth login`.
    """
    hub, folder = _hub(), Path(folder)
    read_folder(folder)
    if not (folder / CARD).is_file():
        raise EncoderError(f"{folder} has no {CARD}: write_hub({str(folder)!r}, OUT) writes one, then push OUT")
    api = hub.HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    done = api.upload_folder(
        repo_id=repo_id, folder_path=folder, allow_patterns=list(_FILES), commit_message=message or "Encoder of curl_rl"
    )
    return done.commit_url


def pull(repo_id: str, out: str | Path, *, revision: str | None = None) -> Path:
    """Download an encoder into a folder, which `load_encoder` reads, and return that; it is checked by its checksums.

    Args: revision, a branch, a tag or a commit. Raises EncoderError for what is no encoder or not as it was pushed.
    """
    place = Path(_hub().snapshot_download(repo_id, revision=revision, allow_patterns=list(_FILES)))
    try:
        read_folder(place)
    except (EncoderError, FileNotFoundError) as error:
        raise EncoderError(
            f"{repo_id} holds no encoder of curl_rl, or not as it was pushed: give another repository or revision"
        ) from error
    beside = {CARD: (place / CARD).read_bytes()} if (place / CARD).is_file() else {}
    return copy_encoder(place, out, beside)


def _hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("push and pull need huggingface_hub: pip install 'curl-rl[hub]'") from error
    return huggingface_hub


def probe_results(path: str | Path, weights: str) -> Results:
    """Return what a CSV of `curl-rl probe` tells of an encoder: means over seeds by probe, layer and quantity.

    Each has that of the encoder, and those of what stands beside where they are there; other subjects are not read.
    Args: weights, the hash in the encoder's folder. Raises EncoderError where none of its rows is there.
    """
    values: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            rows = list(csv.DictReader(file))
        mine = [row for row in rows if (told := row.get("weights")) and weights.startswith(told)]
        kinds = {row.get("kind") or "" for row in mine}
        beside = {"pixels": "pixels", **{f"untrained {kind}".strip(): "untrained" for kind in kinds}}
        others = [row for row in rows if row.get("subject") in beside]
        for row in (*mine, *others):
            name = beside.get(str(row["subject"]), "encoder")
            values[tuple(row.get(key) or "" for key in _KEYS)][name].append(float(row["value"]))
    except (csv.Error, LookupError, TypeError, ValueError) as error:
        raise EncoderError(f"{path} has a row without a number as its value: give the CSV of curl-rl probe") from error
    found = {key: each for key, each in values.items() if "encoder" in each}
    if not found:
        raise EncoderError(f"{path} has no row of this encoder's weights: give the CSV of curl-rl probe of its folder")
    return {key: {name: math.fsum(v) / len(v) for name, v in each.items()} for key, each in found.items()}


def card(described: Mapping[str, Any], results: Results, license: str) -> str:
    """Return the model card of an encoder of which config.json says this."""
    method, source = described.get("objective", {}).get("name", ""), described.get("task", "")
    front = {
        "license": license,
        "library_name": "curl-rl",
        **({"pipeline_tag": "image-feature-extraction"} if len(described["obs_shape"]) == 3 else {}),
        "tags": ["curl-rl", "reinforcement-learning", "self-supervised-learning", *filter(None, [method])],
    }
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", ""]
    lines += [f"# An encoder of {_cell(source or 'unlabelled frames')}{f' by {_cell(method)}' if method else ''}", ""]
    lines += ["It takes raw observations and gives features; weights and description are checked when it is loaded."]
    lines += _table(("what", "of this encoder"), _facts(described))
    if results:
        lines += ["", "## What its features know", "", "Means over seeds, of frozen features."]
        heads = ("encoder", *_BESIDE)
        told = ((*key, *(f"{of[name]:.3f}" if name in of else "" for name in heads)) for key, of in results.items())
        lines += _table((*_KEYS, "this encoder", *_BESIDE), told)
    return "\n".join([*lines, "", "## Loading it", "", *_loading(described), ""])


def _facts(described: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    options, objective = dict(described["encoder"]), dict(described.get("objective", {}))
    yield "encoder", _told(options)
    yield "objective", _told(objective) if objective else "not told"
    if task := described.get("task"):
        yield "task", task
        yield "trained for", f"{described.get('trained_frames', 0):,} frames"
        seen = "the simulator's segmentation" if objective.get("labels") == "segmentation" else "none"
        yield "labels seen", f"{seen}; the task's reward"
    else:
        data = described.get("data", {})
        yield "frames", f"{data.get('frames', 0):,} (crc32 {data.get('crc32', 'not told')})"
        yield "trained for", f"{described.get('updates', 0):,} updates"
        before = {"the encoder that it began from": "from", "its teacher": "teacher"}
        told = [f"{described[key].get('labels_seen', 0):,} by {who}" for who, key in before.items() if key in described]
        yield "labels seen", "; ".join([f"{described.get('labels_seen', 0):,}", *told])
        if classes := described.get("classes"):
            yield "classes", ", ".join(classes)
    yield "observations", f"{tuple(described['obs_shape'])}, of which it sees {tuple(described['input_shape'])}"
    yield "features", f"{described['feature_dim']}, float32"
    yield "weights, SHA-256", described["weights"]
    yield "curl_rl", described["version"]


def _told(options: dict[str, Any]) -> str:
    """Return a configuration as a user types it: its name, then its options."""
    name = options.pop("name", "")
    return " ".join([str(name), *(f"{key}={value}" for key, value in options.items())])


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield ""
    for row in (heads, ("---" for _ in heads), *rows):
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _loading(described: Mapping[str, Any]) -> Iterator[str]:
    network = _cell(described["encoder"].get("network", "").rpartition(":")[2])
    images = len(described["obs_shape"]) == 3
    yield 'Bring this repository to the folder `enc`: `curl_rl.adapters.hub.pull(REPOSITORY, "enc")`, or `git clone`.'
    if network:
        yield f"Its weights are of a network of its author's own, {network}, whose code is needed besides."
    yield from (
        "",
        "```python",
        "import torch",
        "",
        "from curl_rl import load_encoder",
        "",
        f'encoder = load_encoder("enc"{f", module={network}()" if network else ""})',
        f"observations = torch.zeros((1, *encoder.obs_shape), dtype=torch.{'uint8' if images else 'float32'})",
        "features = encoder(observations)  # (1, encoder.feature_dim) float32",
        "```",
    )
