"""Tests of environments in their own process: same bits, restart after a crash or a hang, and an end in every case."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

from curl_rl.envs import EnvError, LocalEnv, RemoteEnv, make_env
from curl_rl.envs.toy import ReachEnv

STEPS = 6


class Trouble(ReachEnv):
    """`toy/reach` that does `kind` at step `at`: only the first time if `once`, a path, is given."""

    def __init__(self, kind: str, at: int, once: str | None = None):
        super().__init__()
        self.kind, self.at, self.once = kind, at, Path(once) if once else None

    def step(self, action):
        result = super().step(action)
        if self._age == self.at and not (self.once and self.once.exists()):
            if self.once:
                self.once.touch()
            self.misbehave()
        return result

    def misbehave(self):
        if self.kind == "hang":
            time.sleep(600)
        elif self.kind == "hang_in_driver":
            ctypes.PyDLL(None).sleep(600)  # with the interpreter's lock held, as mjr_render holds it
        elif self.kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "unpicklable":
            raise type("Local", (Exception,), {})("odd")
        else:
            raise FloatingPointError("physics exploded")


def play(env, seed=5, steps=STEPS, before_step=lambda step: None):
    rng = np.random.default_rng(seed)
    outcome = [env.reset(seed)]
    for step in range(steps):
        env.send(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        before_step(step)
        outcome.append(env.receive())
    return outcome


def assert_same(first, second):
    assert len(first) == len(second)
    for (frame, *rest), (other, *others) in zip(first, second, strict=True):
        assert frame.dtype == other.dtype
        assert np.array_equal(frame, other)
        assert rest == others


def gone(pid: int) -> bool:
    """Tell whether a process has ended, also if nobody has collected its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(
    ("task", "kwargs"),
    [
        ("toy/reach", {"image_size": 16}),
        pytest.param("dmc/cartpole_swingup", {"image_size": 32, "action_repeat": 8}, marks=pytest.mark.gl),
    ],
)
def test_remote_and_local_give_the_same_bits(task, kwargs):
    local = LocalEnv(task, kwargs)
    with RemoteEnv(task, kwargs) as remote:
        assert remote.observation_space == local.observation_space
        assert remote.action_space == local.action_space
        assert remote.render_info == local.render_info
        assert bool(remote.render_info) == task.startswith("dmc")
        assert_same(play(remote), play(local))
        assert np.array_equal(remote.render((30, 40)), local.render((30, 40)))
        assert_same(play(remote, seed=6), play(local, seed=6))
    local.close()


class Waits(ReachEnv):
    """`toy/reach` whose step waits for the file `go` and then leaves the file `done`."""

    def __init__(self, folder: str):
        super().__init__()
        self.folder = Path(folder)

    def step(self, action):
        wait_for(self.folder / "go")
        (self.folder / "done").touch()
        return super().step(action)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_step_runs_between_send_and_receive(tmp_path):
    with RemoteEnv(Waits, {"folder": str(tmp_path)}) as env:
        env.reset(0)
        env.send(np.zeros(2))
        assert not (tmp_path / "done").exists()
        (tmp_path / "go").touch()
        wait_for(tmp_path / "done")
        assert env.receive()[2:4] == (False, False)


def test_killed_process_is_replaced_in_mid_episode(caplog):
    with RemoteEnv("toy/reach") as env:

        def kill(step):
            if step in (1, 4):
                os.kill(env.pid, signal.SIGKILL)

        assert_same(play(env, before_step=kill), play(LocalEnv("toy/reach")))
        os.kill(env.pid, signal.SIGKILL)  # and between two episodes
        assert_same(play(env, seed=6), play(LocalEnv("toy/reach"), seed=6))
        os.kill(env.pid, signal.SIGKILL)
        assert env.render().shape == (24, 24, 3)
    assert [record.getMessage().count("SIGKILL") for record in caplog.records] == [1] * 4


@pytest.mark.parametrize("kind", ["hang_in_driver", "die"])
def test_trouble_in_a_step_is_replayed(tmp_path, kind):
    kwargs = {"kind": kind, "at": 3, "once": str(tmp_path / "done")}
    with RemoteEnv(Trouble, kwargs, timeout=1.0) as env:
        assert_same(play(env), play(LocalEnv("toy/reach")))
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("kind", "timeout", "said"), [("hang", 0.5, "did not answer within 0.5 s"), ("die", 20, "SIGKILL")]
)
def test_trouble_that_stays_ends_in_a_clear_error(kind, timeout, said):
    env = RemoteEnv(Trouble, {"kind": kind, "at": 2}, timeout=timeout, restarts=1)
    start = time.monotonic()
    with pytest.raises(EnvError, match=f"{said}.*2 times in one episode.*MUJOCO_GL=osmesa"):
        play(env)
    assert time.monotonic() - start < 20
    with pytest.raises(RuntimeError, match="closed"):
        env.reset(0)
    env.close()


class NeverStarts(ReachEnv):
    def __init__(self):
        time.sleep(600)


def test_a_start_that_hangs_ends_in_a_clear_error():
    with pytest.raises(EnvError, match=r"did not answer within 0\.7 s"):
        RemoteEnv(NeverStarts, start_timeout=0.7, restarts=0)


@pytest.mark.parametrize(
    ("task", "kwargs", "error", "message"),
    [
        ("dmc/cartpole_swingupp", {}, EnvError, "nearest: dmc/cartpole_swingup"),
        ("toy/reach", {"image_size": 1}, EnvError, "at least 8"),
        ("toy/reach", {"camera": 1}, TypeError, "camera"),
    ],
)
def test_an_environment_that_cannot_be_made_says_why_at_once(task, kwargs, error, message, caplog):
    with pytest.raises(error, match=message):
        RemoteEnv(task, kwargs)
    assert not caplog.records


def test_exceptions_of_a_step_come_through_and_the_next_episode_runs():
    with RemoteEnv(Trouble, {"kind": "raise", "at": 2}) as env:
        with pytest.raises(FloatingPointError, match="physics exploded") as raised:
            play(env)
        assert "test_remote" in "".join(raised.value.__notes__)  # the traceback in the child
        assert_same(play(env, steps=1), play(LocalEnv("toy/reach"), steps=1))
    with RemoteEnv(Trouble, {"kind": "unpicklable", "at": 1}) as env, pytest.raises(RuntimeError, match="odd") as error:
        play(env)
    assert not isinstance(error.value, EnvError)  # which says all: this one needs its traceback


@pytest.mark.parametrize("remote", [True, False])
def test_send_and_receive_alternate(remote):
    env = RemoteEnv("toy/reach") if remote else LocalEnv(make_env("toy/reach"))
    env.reset(0)
    with pytest.raises(RuntimeError, match="no action was sent"):
        env.receive()
    action = np.ones(2, np.float32)
    env.send(action)
    action[:] = 0  # the caller's buffer is its own again
    with pytest.raises(RuntimeError, match="not received"):
        env.send(action)
    moved = env.receive()
    env.reset(0)
    env.send(np.ones(2, np.float32))
    assert np.array_equal(env.receive()[0], moved[0])
    env.send(np.ones(2, np.float32))
    assert_same([env.reset(0)], [LocalEnv("toy/reach").reset(0)])  # drops the step
    env.close()
    env.close()


def test_close_returns_while_the_process_hangs():
    env = RemoteEnv(Trouble, {"kind": "hang_in_driver", "at": 1})
    env.reset(0)
    env.send(np.zeros(2))
    pid, start = env.pid, time.monotonic()
    env.close()
    assert time.monotonic() - start < 10
    assert gone(pid)
    assert env.pid is None


def test_interrupts_meant_for_the_parent_do_not_end_the_child(caplog):
    with RemoteEnv("toy/reach") as env:
        expected = play(LocalEnv("toy/reach"))
        pid = env.pid
        signals = {1: signal.SIGINT, 3: signal.SIGTERM}
        outcome = play(env, before_step=lambda step: step in signals and os.kill(pid, signals[step]))
        assert env.pid == pid
    assert_same(outcome, expected)
    assert not caplog.records


def test_a_thread_that_ends_leaves_its_environments_running(caplog):
    with ThreadPoolExecutor(1) as thread:
        env = thread.submit(RemoteEnv, "toy/reach").result()
    pid = env.pid
    assert_same(play(env), play(LocalEnv("toy/reach")))
    assert env.pid == pid
    env.close()
    assert not caplog.records


PARENT = """
import os, signal, sys, time
import numpy as np
from curl_rl.envs import RemoteEnv
from test_remote import Trouble
idle = RemoteEnv("toy/reach")
hung = RemoteEnv(Trouble, {"kind": "hang_in_driver", "at": 1}, timeout=1.0)
hung.reset(0)
hung.send(np.zeros(2))
stopped = RemoteEnv("toy/reach")
os.kill(stopped.pid, signal.SIGSTOP)
print(idle.pid, hung.pid, stopped.pid, flush=True)
time.sleep(600)
"""


def test_children_end_with_a_parent_that_is_killed():
    folders = (ROOT, ROOT / "tests", Path(__file__).parent)
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=variables) as parent:
        assert parent.stdout is not None
        children = list(map(int, parent.stdout.readline().split()))
        assert len(children) == 3
        assert not any(map(gone, children))
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 15
        while not all(map(gone, children)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert all(map(gone, children))
