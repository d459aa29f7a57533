"""Jobs on a real Ray cluster of several node processes: they outlive workers and nodes, wherever runs are kept."""

import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from runs import SMALL, assert_same, manifests, rows, state

from curl_rl.benchmark.board import Standing
from curl_rl.benchmark.engines import ray as engine_module
from curl_rl.benchmark.engines.base import LOST, Job
from curl_rl.benchmark.engines.ray import RayEngine
from curl_rl.benchmark.schedule import Schedule
from curl_rl.config.overrides import compose
from curl_rl.run import trainer
from curl_rl.types import ConfigError

OVERRIDES = (*SMALL, "seed=3")
SHARE = ("device=cpu", "threads=1", "evaluation.workers=1")  # as an engine of one core adds
STOPPED = 128 + signal.SIGTERM


def job(run_dir: str | Path) -> Job:
    return Job("toy/reach", "curl", 3, OVERRIDES, str(run_dir))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The same job without a cluster and without an interruption."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    assert trainer.train(compose([*OVERRIDES, *SHARE, f"run_dir={run_dir}"])) == 0
    return run_dir


class Nodes:
    """A head that runs no job, and nodes of one core each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 << 20}
        # Ray's workers are nice, and would wait for every test beside this one.
        head["_system_config"] = {"worker_niceness": 0}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.up: list[Any] = []

    def add(self) -> None:
        self.up.append(self.cluster.add_node(num_cpus=1, object_store_memory=80 << 20))

    def kill(self, raylet: int) -> None:
        (node,) = [node for node in self.up if node.all_processes["raylet"][0].process.pid == raylet]
        self.up.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray")
    # Not pytest's folder: sockets lie in it, whose paths must be short.
    folder = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
    with folder, pytest.MonkeyPatch.context() as patch:
        # All that Ray keeps, the address of the newest cluster too, where no earlier Ray of this machine has been.
        patch.setenv("RAY_TMPDIR", folder.name)
        found = Nodes()
        found.add()
        found.add()
        yield found
        found.cluster.shutdown()


@pytest.fixture(scope="module")
def engine(nodes) -> Iterator[RayEngine]:
    found = RayEngine(nodes.cluster.address, push_every=0.3)
    yield found
    found.close()


def wait_for(condition: Callable[[], Any], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def ended(handle: Any) -> int:
    wait_for(lambda: handle.poll() is not None)
    return handle.poll()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def training(run_dir: str) -> int:
    """Return the process that trains in a directory, given by the end of its path."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "train" in words and any(word.startswith("run_dir=") and word.endswith(run_dir) for word in words):
            return int(path.name)
    return 0


def starts(run_dir: Path) -> int:
    return len(json.loads((run_dir / "metadata.json").read_text())["starts"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mounted", "url"])
def test_a_job_whose_node_dies_goes_on_at_another(nodes, engine, finished, tmp_path, kind):
    run_dir = tmp_path / "run"
    where = run_dir if kind == "mounted" else f"file://{run_dir}"
    local = str(run_dir) if kind == "mounted" else engine_module._scratch(f"file://{run_dir}").name
    handle = engine.start(job(where))
    wait_for(lambda: max(manifests(run_dir), default="") >= "manifest-000000000150" or handle.poll() is not None)
    assert handle.poll() is None, handle.tail()
    process = training(local)
    nodes.kill(parent(parent(process)))
    assert ended(handle) == LOST
    wait_for(lambda: not Path(f"/proc/{process}").exists())
    assert len(rows(run_dir)) < len(rows(finished))
    nodes.add()
    handle = engine.start(job(where))
    assert ended(handle) == 0, handle.tail()
    assert "330/330 frames" in handle.tail()
    assert starts(run_dir) == 2
    assert rows(run_dir) == rows(finished)
    assert_same(state(run_dir), state(finished))
    assert (run_dir / "log.txt").read_text().count("frame 110: mean return") == 1  # played before the node died
    view = engine.view(job(where))
    assert (view == run_dir) == (kind == "mounted")
    assert rows(view) == rows(finished)


@pytest.mark.slow
def test_a_job_whose_worker_dies_goes_on_and_can_be_stopped(engine, finished, tmp_path):
    run_dir = tmp_path / "run"
    assert engine.free()
    handle = engine.start(job(run_dir))
    wait_for(lambda: manifests(run_dir))
    process = training(str(run_dir))
    os.kill(parent(process), signal.SIGKILL)
    assert ended(handle) == LOST
    wait_for(lambda: not Path(f"/proc/{process}").exists())
    before = manifests(run_dir)
    handle = engine.start(job(run_dir))
    wait_for(lambda: manifests(run_dir) - before)
    handle.stop()
    assert ended(handle) == STOPPED
    assert "goes on" in handle.tail()
    assert starts(run_dir) == 2
    assert 0 < state(run_dir)["clock"][0] < 330
    assert trainer.train(compose([*OVERRIDES, *SHARE, f"run_dir={run_dir}"])) == 0
    assert rows(run_dir) == rows(finished)


@pytest.mark.slow
def test_a_benchmark_resumes_elsewhere_what_a_node_took_with_it(nodes, engine, finished, tmp_path):
    mine = job(tmp_path / "toy_reach" / "curl-seed3")
    run_dir = Path(mine.run_dir)

    def kill_its_node() -> None:
        wait_for(lambda: manifests(run_dir))
        nodes.kill(parent(parent(training(mine.run_dir))))

    nodes.add()  # here, for Ray's signal handlers: in the place of the one that is going to die
    assassin = threading.Thread(target=kill_its_node)
    assassin.start()
    stream = StringIO()
    status = Schedule([Standing(mine, 330)], engine, str(tmp_path), stream).run()
    assassin.join()
    assert status == 0, stream.getvalue()
    assert "toy/reach curl seed 3 lost its worker (0 of 1 done)" in stream.getvalue()
    assert "toy/reach curl seed 3 starts again (0 of 1 done)" in stream.getvalue()
    assert starts(run_dir) == 2
    assert rows(run_dir) == rows(finished)


@pytest.mark.slow
def test_slots_are_taken_freed_and_refused(nodes, engine, tmp_path):
    # A node that was killed counts until Ray has noticed.
    wait_for(lambda: engine.describe() == f"Ray at {nodes.cluster.address}: 2 x 1 core" and engine.free())
    wrong = Job("toy/reach", "curl", 3, ("task=toy/reach", "env.image_sise=84"), str(tmp_path / "wrong"))
    handles = [engine.start(wrong), engine.start(job(tmp_path / "killed"))]
    assert not engine.free()
    waiting = engine.start(job(tmp_path / "never"))
    waiting.stop()
    assert ended(waiting) == STOPPED
    assert not (tmp_path / "never").exists()
    assert ended(handles[0]) == 2
    assert "unknown key 'env.image_sise'" in handles[0].tail()
    assert engine.free()
    wait_for(lambda: training(str(tmp_path / "killed")))
    process = training(str(tmp_path / "killed"))
    handles[1].kill()
    assert ended(handles[1]) not in (None, 0, LOST)
    wait_for(lambda: not Path(f"/proc/{process}").exists())


def test_a_cluster_that_cannot_be_reached_is_one_message(monkeypatch):
    pytest.importorskip("ray")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"cannot reach a Ray cluster at '{address}'.*refused") as refused:
            RayEngine(address)
        assert "\n" not in str(refused.value)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match=f"cannot reach a Ray cluster at '{address}'.*`ray start --head`"):
            RayEngine("auto")
        monkeypatch.setattr(engine_module, "_INIT", 1.0)
        silent.listen()
        with pytest.raises(ConfigError, match="no answer within 1 s"):
            RayEngine(address)


def test_an_address_that_is_none_is_refused():
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=r"cannot reach a Ray cluster at 'nonsense' .*Invalid address format"):
        RayEngine("nonsense")


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'curl-rl\[ray\]'"):
        RayEngine("auto")
