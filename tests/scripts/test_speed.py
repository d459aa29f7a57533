"""The speed script on the toy task: its JSON is whole and its figures agree with each other."""

import json
import subprocess
import sys

import pytest
from places import ROOT

from curl_rl.nn.encoders.stack import has_bf16

SCRIPT = ROOT / "scripts" / "speed.py"


def test_a_wrong_setting_is_one_line_and_status_two():
    done = subprocess.run([sys.executable, str(SCRIPT), "preset=foo"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown preset 'foo'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_operations_of_the_second_crew_are_counted_too():
    command = [sys.executable, str(SCRIPT), "task=toy/reach", "device=cpu", "batch_size=16", "env.overlap=false"]
    counts = set()
    for number in (1, 2):
        done = subprocess.run([*command, f"threads={number}"], check=True, capture_output=True, text=True, timeout=120)
        counts.add(json.loads(done.stdout)["gflop_per_update"])
    assert len(counts) == 1


@pytest.mark.parametrize(
    ("task", "preset", "frame"), [("reach", "quick", 3 * 28 * 28), ("grid", "rainbow", 3 * 16 * 16)]
)
def test_the_report_is_whole_and_consistent(task, preset, frame):
    command = [sys.executable, str(SCRIPT), f"task=toy/{task}", f"preset={preset}", "device=cpu", "batch_size=16"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    stages = report["seconds_per_update"]
    assert stages.keys() == {"sample", "crop", "forward_backward", "optimizer", "total"}
    assert all(seconds > 0 for seconds in stages.values())
    parts = sum(seconds for name, seconds in stages.items() if name != "total")
    assert 0.3 < parts / stages["total"] < 3  # measured one after the other, on a machine that others share
    assert report["updates_per_second"] * stages["total"] == pytest.approx(1)
    assert report["gflops"] * stages["total"] == pytest.approx(report["gflop_per_update"])
    assert frame < report["bytes_per_transition"] < 1.2 * frame
    assert {"float32", *(["bfloat16"] if has_bf16() else [])} == report["matmul_gflops"].keys()
    step = report["seconds_per_agent_step"]
    assert step.keys() == {"act", "sample", "update", "priorities", "environment", "store", "total"}
    assert 0.8 < sum(seconds for name, seconds in step.items() if name != "total") / step["total"] < 1.2
    assert report["environment_step_alone"] > 0
    assert report["command"].startswith(f"python scripts/speed.py task=toy/{task}")
    assert "torch=" in report["versions"]
    assert report["hardware"]
    assert "commit" in report
