"""Jobs as processes: each on cores of its own, none outliving what started it, all resumed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT
from runs import rows, wait_for

from curl_rl.benchmark.engines import local
from curl_rl.benchmark.engines.base import Job
from curl_rl.benchmark.engines.local import LocalEngine
from curl_rl.benchmark.engines.process import JobProcess
from curl_rl.run import machine
from curl_rl.types import ConfigError

TOY = """
tasks: [toy/reach]
seeds: 2
settings:
  {budget_frames: 330, random_steps: 40, batch_size: 8, evaluation.every_frames: 110, checkpoint.every_frames: 50}
methods:
  curl: {objective: curl}
"""


@pytest.fixture
def _four_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7})
    monkeypatch.setattr(machine, "cpu_quota", lambda: 4.0)
    monkeypatch.setattr(local, "visible_gpus", list)


@pytest.mark.usefixtures("_four_cores")
@pytest.mark.parametrize(("workers", "each"), [(None, 1), (1, 4), (2, 2), (3, 1), (4, 1)])
def test_workers_share_the_cores_out_and_no_core_twice(workers, each):
    slots = LocalEngine(workers=workers)._slots
    assert len(slots) == (workers or 4)
    assert {len(slot.cores) for slot in slots} == {each}
    used = [core for slot in slots for core in slot.cores]
    assert len(set(used)) == len(used)
    assert set(used) <= {2, 3, 5, 7}
    assert slots[0].share() == ("device=cpu", f"threads={each}", f"evaluation.workers={each}")
    assert slots[0].environment() == {"OMP_NUM_THREADS": str(each)}


@pytest.mark.usefixtures("_four_cores")
@pytest.mark.parametrize(("workers", "each", "threads"), [(None, 2, 1), (1, 4, 2), (2, 2, 1)])
def test_a_quota_bounds_workers_and_threads_and_leaves_all_cores_to_choose_from(monkeypatch, workers, each, threads):
    monkeypatch.setattr(machine, "cpu_quota", lambda: 2.5)
    engine = LocalEngine(workers=workers)
    assert [len(slot.cores) for slot in engine._slots] == [each] * (workers or 2)
    assert engine._slots[0].environment() == {"OMP_NUM_THREADS": str(threads)}
    assert engine._slots[0].share()[1:] == (f"threads={threads}", f"evaluation.workers={threads}")
    with pytest.raises(ConfigError, match="3 workers need as many CPU cores, and there are 2"):
        LocalEngine(workers=3)


@pytest.mark.usefixtures("_four_cores")
def test_too_many_workers_and_gpus_that_are_not_there_are_refused():
    with pytest.raises(ConfigError, match="5 workers need as many CPU cores, and there are 4: ask for fewer"):
        LocalEngine(workers=5)
    with pytest.raises(ConfigError, match="--per-gpu needs a GPU"):
        LocalEngine(per_gpu=2)


@pytest.mark.usefixtures("_four_cores")
def test_jobs_are_dealt_out_to_the_gpus(monkeypatch):
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0", "GPU-b"])
    slots = LocalEngine(per_gpu=2)._slots
    assert [slot.gpu for slot in slots] == ["0", "GPU-b", "0", "GPU-b"]
    assert slots[1].environment() == {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "GPU-b"}
    assert slots[1].share()[0] == "device=cuda"
    assert len(LocalEngine()._slots) == 2
    with pytest.raises(ConfigError, match="6 workers need"):
        LocalEngine(per_gpu=3)


def test_a_job_runs_on_its_cores_and_leaves_its_log(tmp_path, monkeypatch):
    code = "import os, sys; print(sorted(os.sched_getaffinity(0)), sys.argv[1:]); sys.exit(3)"
    monkeypatch.setattr("curl_rl.benchmark.engines.process.program", lambda: [sys.executable, "-c", code])
    engine = LocalEngine(workers=1)
    core = min(os.sched_getaffinity(0))
    engine._slots = [local._Slot((core,), 1, "")]
    job = Job("toy/reach", "curl", 1, ("task=toy/reach", "seed=1"), str(tmp_path / "run"))
    handle = engine.start(job)
    assert not engine.free()
    wait_until(lambda: handle.poll() is not None)
    assert handle.poll() == 3
    assert engine.free()
    arguments = ["train", "task=toy/reach", "seed=1", f"run_dir={tmp_path / 'run'}"]
    assert handle.tail() == f"[{core}] {[*arguments, 'device=cpu', 'threads=1', 'evaluation.workers=1']}"


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def test_a_signal_that_ended_a_job_is_its_exit_status(tmp_path, monkeypatch):
    code = "import time; print('up', flush=True); time.sleep(600)"
    monkeypatch.setattr("curl_rl.benchmark.engines.process.program", lambda: [sys.executable, "-c", code])
    for end, status in (("stop", 143), ("kill", 137)):
        process = JobProcess([], tmp_path / end)
        wait_until(lambda process=process: process.tail() == "up")
        assert process.poll() is None
        getattr(process, end)()
        wait_until(lambda process=process: process.poll() is not None)
        assert process.poll() == status


def test_a_paused_job_is_seen_and_ends_when_it_is_asked_to(tmp_path, monkeypatch):
    code = "import time; print('up', flush=True); time.sleep(600)"
    monkeypatch.setattr("curl_rl.benchmark.engines.process.program", lambda: [sys.executable, "-c", code])
    process = JobProcess([], tmp_path / "log")
    wait_until(lambda: process.tail() == "up")
    assert process.paused() is None
    pid = process._process.pid
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: process.paused() == pid)
    assert process.poll() is None
    process.stop()
    wait_until(lambda: process.poll() is not None)
    assert process.poll() == 143
    assert process.paused() is None


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=rf"^cannot write {tmp_path}/file/log.txt: .*; .*run the same command again$"):
        JobProcess([], tmp_path / "file" / "log.txt")


@pytest.mark.slow
def test_a_folder_with_modules_of_the_same_names_confuses_no_process(tmp_path):
    """Not the benchmark, its jobs, or their environments: `python -m` and `-c` look into the current folder first."""
    for name in ("envs/__init__.py", "torch.py", "ctypes.py", "signal.py", "pickle.py", "gymnasium.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise RuntimeError(f'{__file__} is not ours')")
    (tmp_path / "mine.yaml").write_text(TOY.replace("seeds: 2", "seeds: 1").replace("330", "60"))
    process = benchmark(tmp_path)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert len(rows(tmp_path / "out" / "toy_reach" / "curl-seed1")) == 20  # of one evaluation, the last


def benchmark(folder: Path) -> subprocess.Popen:
    if not (folder / "mine.yaml").exists():
        (folder / "mine.yaml").write_text(TOY)
    command = [sys.executable, "-m", "curl_rl", "benchmark", "mine.yaml", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def trainers(run_dir: Path) -> list[int]:
    """Return the processes that hold a run directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"run_dir={run_dir.relative_to(run_dir.parents[2])}".encode() in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_interrupted_and_killed_it_goes_on_and_gives_the_same_rows(tmp_path):
    whole = benchmark(tmp_path)
    output, _ = whole.communicate(timeout=240)
    assert whole.returncode == 0, output
    (tmp_path / "out").rename(tmp_path / "whole")

    first = tmp_path / "out" / "toy_reach" / "curl-seed1"
    process = benchmark(tmp_path)
    wait_for(lambda: any((first / "checkpoints").glob("manifest-*")), process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 130, output
    assert "stopped; the same command goes on" in output
    assert trainers(first) == []
    count = len(rows(first))

    process = benchmark(tmp_path)
    wait_for(lambda: len(rows(first)) > count, process)
    process.kill()
    process.communicate(timeout=600)
    wait_until(lambda: trainers(first) == [])

    process = benchmark(tmp_path)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    for seed in (1, 2):
        name = Path("toy_reach") / f"curl-seed{seed}"
        assert rows(tmp_path / "out" / name) == rows(tmp_path / "whole" / name)
    assert (first / "log.txt").read_text().count("stopping after this step") == 1
