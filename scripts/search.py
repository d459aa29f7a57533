"""Measures how fast an index is searched and built, torch on one thread, and prints JSON: python scripts/search.py."""

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from stopwatch import Stopwatch
from torch.nn import functional

from curl_rl.commands.arguments import whole
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.representation.export import ExportedEncoder
from curl_rl.representation.frames.base import Frames
from curl_rl.representation.index import FrameIndex
from curl_rl.representation.index.exact import METRICS, Exact
from curl_rl.representation.looking import as_seen, embed
from curl_rl.run.provenance import make_origin, surroundings

STACK, QUERIES = 3, 50
CPU = torch.device("cpu")


def time_search(frames: int, dim: int, count: int, metric: str) -> dict[str, float]:
    """Return the milliseconds of one query among so many embeddings, of a single one and of many at once."""
    points, queries = torch.randn(frames, dim), torch.randn(QUERIES, dim)
    exact, watch = Exact(points, metric), Stopwatch(CPU)
    for query in queries.split(1):
        with watch.timing("one"):
            exact.search(query, count)
    for _ in watch.repeat(12):
        with watch.timing("many"):
            exact.search(queries, count)
    return {"one": 1e3 * watch.median("one"), "of_50_at_once": 1e3 * watch.median("many") / QUERIES}


def time_indexing(frames: int, encoder: str, side: int) -> dict[str, float]:
    """Return the seconds for each frame of the encoder alone, and of an index with rows and pictures, written."""
    shape = (3 * STACK, side, side)
    module = ExportedEncoder(make_encoder(encoder_config(encoder), shape), shape).eval()
    coarse = torch.randint(256, (frames, 3, 8, 8), dtype=torch.uint8)  # noise of single pixels is like no picture
    images = functional.interpolate(coarse, size=(side, side), mode="bilinear")
    given = Frames(images, source="random", names=[str(i) for i in range(frames)], ordered=True)
    watch = Stopwatch(CPU)
    for _ in watch.repeat(12):
        with watch.timing("encoder"):
            embed(module, as_seen(given, module))
        with tempfile.TemporaryDirectory() as place, watch.timing("index"):
            FrameIndex.build(module, given).save(Path(place) / "idx")
    encoder_alone, index = (watch.median(name) / frames for name in ("encoder", "index"))
    return {"encoder": encoder_alone, "index": index, "ratio": index / encoder_alone}


def main() -> None:
    """Measure at the sizes that the command line gives."""
    parser = argparse.ArgumentParser(prog="search.py", description="Time the search of an index, and its building.")
    parser.add_argument("--frames", type=whole(10, 10**7), default=100_000, help="searched (default: %(default)s)")
    parser.add_argument("--dim", type=whole(1, 4096), default=50, help="numbers a frame (default: %(default)s)")
    parser.add_argument("--indexed", type=whole(10, 10**6), default=2048, help="frames (default: %(default)s)")
    parser.add_argument("--encoder", default="strided", help="that indexes them (default: %(default)s)")
    parser.add_argument("--side", type=whole(24, 512), default=64, help="of a frame in pixels (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    origin = make_origin(surroundings(), "", 0)
    report: dict[str, Any] = {"commit": origin.commit, "versions": origin.versions, "hardware": origin.hardware}
    report["milliseconds_per_query"] = {
        metric: time_search(arguments.frames, arguments.dim, 10, metric) for metric in METRICS
    }
    report["seconds_per_indexed_frame"] = time_indexing(arguments.indexed, arguments.encoder, arguments.side)
    print(json.dumps({"command": shlex.join(["python", "scripts/search.py", *sys.argv[1:]]), **report}, indent=2))


if __name__ == "__main__":
    main()
