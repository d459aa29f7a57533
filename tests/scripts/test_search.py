"""The script that times an index, at a small size."""

import json
import subprocess
import sys

from places import ROOT


def test_its_figures_are_whole_and_agree():
    command = [sys.executable, str(ROOT / "scripts" / "search.py"), "--frames", "300", "--dim", "8", "--indexed", "40"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert report["command"] == "python scripts/search.py --frames 300 --dim 8 --indexed 40"
    assert report["milliseconds_per_query"].keys() == {"cosine", "euclidean"}
    for times in report["milliseconds_per_query"].values():
        assert 0 < times["of_50_at_once"] < times["one"]
    times = report["seconds_per_indexed_frame"]
    assert times["ratio"] == times["index"] / times["encoder"] > 1
