"""Runs from Python: as the command's, bit for bit, of tasks and of environments of one's own, in threads too."""

import ast
import csv
import json
import os
import re
import shlex
import shutil
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from runs import assert_equals, rows, state

import curl_rl
from curl_rl import cli, envs
from curl_rl.commands import python
from curl_rl.config.overrides import compose
from curl_rl.envs import outside
from curl_rl.run import trainer
from curl_rl.run.checkpoint import CheckpointError
from curl_rl.run.files import WriteError
from curl_rl.run.stored import configure
from curl_rl.types import ConfigError

SETTINGS: dict[str, Any] = {
    "budget_frames": 120,
    "random_steps": 40,
    "batch_size": 8,
    "threads": 1,
    "agent": {"hidden_dim": 16},
    "encoder": {"filters": 4, "feature_dim": 8},
    "evaluation": {"every_frames": 60, "episodes": 2, "workers": 1, "video": False},
    "checkpoint.every_frames": 50,
    "log": {"every_updates": 30},
}
REACH: dict[str, Any] = {**SETTINGS, "task": "toy/reach", "env.overlap": False, "progress": False}
OWN: dict[str, Any] = {**SETTINGS, "env.image_size": 32, "progress": False}


class Push(gym.Env):
    """Pays for actions above 1.2; ten steps an episode."""

    observation_space = gym.spaces.Box(0, 255, (16, 24, 3), np.uint8)
    action_space = gym.spaces.Box(-2, 2, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._age = 0
        return self._frame(), {}

    def step(self, action: Any):
        self._age += 1
        return self._frame(), float(action[0] > 1.2), False, self._age == 10, {}

    def _frame(self) -> np.ndarray:
        return np.full((16, 24, 3), 20 * self._age, np.uint8)


class Uncopied(Push):
    def __deepcopy__(self, _: Any):
        raise TypeError("it holds a socket")


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> tuple[curl_rl.TrainedRun, list[Any]]:
    """Return a finished run of toy/reach, and what its callback was told."""
    told: list[Any] = []
    run_dir = tmp_path_factory.mktemp("python") / "reach"
    run = curl_rl.train(**REACH, run_dir=run_dir, callback=lambda clock, metrics: told.append((clock, dict(metrics))))
    return run, told


def test_a_call_trains_as_the_command_that_it_records(reached, tmp_path: Path):
    run, _ = reached
    (start,) = json.loads((run.path / "metadata.json").read_text())["starts"]
    program, verb, *overrides = shlex.split(start["command"])
    assert (program, verb) == ("curl-rl", "train")
    assert configure(overrides) == run.config
    assert run.config.agent.hidden_dim == 16
    assert run.finished
    assert trainer.train(compose([*overrides[:-1], f"run_dir={tmp_path / 'again'}"])) == 0
    assert_equals(tmp_path / "again", run.path)


def test_a_callback_is_told_every_row(reached):
    run, told = reached
    with (run.path / "train.csv").open() as file:
        written = [(int(row["agent_step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)]
    heard = [(clock.agent_step, *item) for clock, metrics in told for item in metrics.items()]
    assert [each for each in heard if not each[1].startswith("eval/")] == written
    means = [(each[0], each[2]) for each in heard if each[1] == "eval/return"]
    assert means == [(each.agent_step, each.mean) for each in run.evaluations]
    assert len(means) == 2


def failing(*_: object) -> None:
    raise LookupError("no such dashboard")


def interrupting(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("callback", "error"), [(failing, LookupError), (interrupting, KeyboardInterrupt)], ids=["failing", "interrupting"]
)
def test_what_stops_a_run_leaves_a_checkpoint_from_which_the_same_call_goes_on(reached, callback, error, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(error):
        curl_rl.train(**REACH, run_dir=tmp_path / "run", callback=callback)
    assert signal.getsignal(signal.SIGINT) is handler
    assert 0 < state(tmp_path / "run")["clock"][1] < 120
    run = curl_rl.train(**REACH, run_dir=tmp_path / "run")
    assert run.finished
    assert_equals(run.path, reached[0].path)


def test_runs_in_two_threads_at_once_are_those_of_one(reached, tmp_path):
    stderr, randomness = sys.stderr, torch.random.get_rng_state()
    found: dict[str, Any] = {}

    def work(name: str) -> None:
        try:
            found[name] = curl_rl.train(**REACH, run_dir=tmp_path / name)
        except BaseException as error:
            found[name] = error

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("one", "two"):
        assert repr(found[name]) == f"TrainedRun({str(tmp_path / name)!r})"
        assert_equals(tmp_path / name, reached[0].path)
    assert sys.stderr is stderr
    assert torch.equal(torch.random.get_rng_state(), randomness)


def test_a_simulator_does_not_draw_in_a_thread(tmp_path):
    found: list[str] = []

    def work() -> None:
        with pytest.raises(curl_rl.Error) as caught:
            curl_rl.train(task="dmc/cartpole_swingup", run_dir=tmp_path, **{"env.overlap": False})
        found.append(str(caught.value))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == ["env.overlap=false draws dmc/cartpole_swingup in this thread: set env.overlap=true"]


def test_a_run_is_played_looked_at_and_taken_away(reached, tmp_path):
    run, _ = reached
    assert [episode.length for episode in run.evaluate(3, seed=1)] == [20, 20, 20]
    assert run.evaluate(2) == run.evaluate(2)
    env = run.make_env()
    obs, _ = env.reset(seed=0)
    assert obs.shape == (6, 28, 28)  # two frames
    assert obs.shape == env.observation_space.shape
    action = run.agent.act(obs)
    assert np.array_equal(action[None], run.agent.act(obs[None]))
    assert not np.array_equal(action, run.agent.act(obs, explore=True))
    assert env.step(action)[0].shape == obs.shape
    frames = torch.as_tensor(obs)[None]
    loaded = curl_rl.load_encoder(run.export(tmp_path / "enc"))
    assert torch.equal(run.encoder(frames), loaded(frames))
    for given, told in (
        (np.zeros((24, 24, 3), np.uint8), "(24, 24, 3) uint8"),
        (obs[:3], "(3, 28, 28) uint8"),
        (obs / 255, "(6, 28, 28) float64"),
        (obs[None, None], "(1, 1, 6, 28, 28) uint8"),
        (env.reset(), "a tuple of several things"),
        (None, "() object"),
    ):
        with pytest.raises(
            curl_rl.Error, match=re.escape(f"sees stacked frames (6, 28, 28) uint8 or a batch of them, got {told}:")
        ):
            run.agent.act(given)
    with pytest.raises(curl_rl.Error, match="perhaps a run's: give another"):
        run.export(run.path)


@pytest.mark.parametrize("episodes", [0, 10_001, 2.5, "3", True])
def test_only_a_number_of_episodes_is_played(reached, episodes):
    told = f"episodes must be a whole number from 1 to 10000, got {episodes!r}"
    with pytest.raises(curl_rl.Error, match=re.escape(told)):
        reached[0].evaluate(episodes)


@pytest.mark.parametrize("seed", [-1, "x", 1.0, None])
def test_only_a_whole_number_is_a_seed(reached, seed):
    with pytest.raises(curl_rl.Error, match=f"seed must be a whole number from 0 to {2**63 - 1}, got {seed!r}"):
        reached[0].evaluate(1, seed=seed)
    assert reached[0].evaluate(np.int64(1), seed=np.int64(3)) == reached[0].evaluate(1, seed=3)


def test_results_are_a_frame_where_pandas_is_and_evaluations_anyhow(reached, monkeypatch):
    run, _ = reached
    assert [len(each.returns) for each in run.evaluations] == [2, 2]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(curl_rl.Error, match=r"needs pandas .*: pip install pandas, or read run\.evaluations"):
        _ = run.results
    monkeypatch.undo()
    pytest.importorskip("pandas")
    means = run.results.groupby("frame")["return"].mean()
    assert dict(means) == {each.frame: pytest.approx(each.mean) for each in run.evaluations}


def test_a_run_is_loaded_by_its_folder(reached, tmp_path):
    assert curl_rl.load_run(reached[0].path).evaluations == reached[0].evaluations
    with pytest.raises(curl_rl.Error, match=r"is no run directory: it has no config\.json: give the folder of a run"):
        curl_rl.load_run(tmp_path)
    with pytest.raises(curl_rl.Error, match="run_dir is a int: give the folder of a run"):
        curl_rl.load_run(3)
    with pytest.raises(curl_rl.Error, match="has its own environment: leave env out"):
        curl_rl.load_run(reached[0].path, env=Push)


def test_an_own_environment_is_trained_gone_on_with_and_loaded(tmp_path, capsys):
    with pytest.raises(LookupError):
        curl_rl.train(env=Push, run_dir=tmp_path, callback=failing, **OWN)
    outside._OFFERED.clear()  # as in another program
    capsys.readouterr()
    assert cli.main(["train", f"run_dir={tmp_path}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "own/Push was made by a program, and is not known in this one: give it again" in line
    run = curl_rl.train(env=partial(Push), run_dir=tmp_path, **OWN)  # under the name that it was begun with
    assert run.config.task == "own/Push"
    assert run.finished
    starts = json.loads((tmp_path / "metadata.json").read_text())["starts"]
    call = ast.parse(starts[-1]["command"], mode="eval").body  # whose environment is to be given
    assert isinstance(call, ast.Call)
    assert ast.literal_eval(call.keywords[1].value)["encoder.filters"] == 4
    (episode,) = curl_rl.load_run(tmp_path, env=Push).evaluate(1)
    assert episode.length == 10
    env = run.make_env()
    env.reset(seed=0)
    assert env.step(np.array([0.61], np.float32))[1] == 1  # of [-1, 1]: 1.22 of its own
    assert env.step(np.array([0.59], np.float32))[1] == 0


def test_a_name_is_taken_until_the_last_run_of_it_ends():
    other = type("Push", (Push,), {})
    with python._offered(Push, {}) as own:
        with python._offered(Push, {}):
            pass
        with pytest.raises(curl_rl.Error, match="another environment named Push trains"), python._offered(other, {}):
            pass
    assert own == {"task": "own/Push", "env.overlap": False}
    with python._offered(other, {}) as own:
        assert own == {"task": "own/Push", "env.overlap": False}


def test_an_instance_is_copied_and_never_stepped(tmp_path):
    env = Push()
    env.reset(seed=0)
    env.goal = "kept"  # type: ignore[attr-defined]
    run = curl_rl.train(env=env, run_dir=tmp_path, **{**OWN, "budget_frames": 50})
    assert env._age == 0
    made = run.make_env().unwrapped
    assert made is not env
    assert made.goal == "kept"  # type: ignore[attr-defined]
    with pytest.raises(curl_rl.Error, match=r"it holds a socket.*give a function that makes it"):
        curl_rl.train(env=Uncopied(), run_dir=tmp_path / "other", **OWN)


def test_a_registered_instance_is_made_again_by_its_id(tmp_path):
    gym.register("PythonPush-v0", Push, max_episode_steps=4)
    try:
        run = curl_rl.train(env=gym.make("PythonPush-v0"), run_dir=tmp_path, **{**OWN, "budget_frames": 50})
        assert run.evaluate(1)[0].length == 4
    finally:
        del gym.registry["PythonPush-v0"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"task": "toy/raech"}, "unknown task 'toy/raech'; did you mean toy/reach"),
        ({"seed": "x"}, "seed must be a whole number, got x"),
        ({"agent": {"learning_rat": 1}}, "unknown key 'agent.learning_rat'; did you mean agent.learning_rate"),
        ({"env": {"image_siz": 1}}, "unknown key 'env.image_siz'; did you mean env.image_size"),
        ({"agent": {"tau": 1}, "agent.tau": 1}, "agent.tau is given twice"),
        ({"objective": dict}, "objective is a type: give a number, a word or a list, as on the command line"),
        ({"batch_size": np.float64(0.5)}, "batch_size must be a whole number, got 0.5"),
        ({"task": "toy/reach", "env": Push}, "task=toy/reach and env are both what to learn: give one of them"),
        ({"env": 3}, "env is a int: give a gymnasium.Env, its class, or a function that makes it"),
        ({"env": Push, "env.overlap": True}, "env.overlap=true steps in another process"),
        ({"env": lambda: 3}, "which is no gymnasium.Env"),
        ({"restart": "false"}, "restart must be true or false, got 'false'"),
        ({"progress": None}, "progress must be true or false, got None"),
        ({"callback": 3}, "callback=3 cannot be called as callback(clock, metrics): 3 is not a callable object"),
        (
            {"callback": lambda clock: None},
            "cannot be called as callback(clock, metrics): too many positional arguments",
        ),
        ({"run_dir": "new", "restart": True}, "restart=true: new holds no run; name its task too, or give the folder"),
    ],
)
def test_what_cannot_be_honoured_is_an_error_of_one_class(given, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(curl_rl.Error, match=re.escape(told)):
        curl_rl.train(**given)
    assert list(tmp_path.iterdir()) == []


def test_everything_that_is_raised_for_a_user_is_an_error():
    for kind, builtin in (
        (ConfigError, ValueError),
        (envs.EnvError, RuntimeError),
        (CheckpointError, OSError),
        (WriteError, OSError),
    ):
        assert issubclass(kind, curl_rl.Error)
        assert issubclass(kind, builtin)


def test_the_stub_of_types_is_in_the_package():
    assert (Path(curl_rl.__file__).parent / "py.typed").read_bytes() == b""


def test_a_notebook_is_shown_a_bar(monkeypatch):
    from curl_rl.run.progress import Progress

    shown: list[Any] = []
    bar = SimpleNamespace(update=shown.append, set_postfix_str=lambda text, refresh: shown.append(text), close=list)
    app = SimpleNamespace(IPKernelApp=SimpleNamespace(initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", app)
    monkeypatch.setitem(sys.modules, "tqdm.auto", SimpleNamespace(tqdm=lambda **options: shown.append(options) or bar))
    progress = Progress(100, initial=20)
    progress.update(50, 1.25)
    progress.close()
    assert shown == [{"total": 100, "initial": 20, "unit": "frame"}, "return 1.2", 30]


def test_nothing_is_shown_where_nothing_is_wanted(capsys):
    from curl_rl.run.progress import Progress

    progress = Progress(100, quiet=True)
    progress.update(50, 1.0)
    progress.note("evaluated")
    progress.close()
    assert capsys.readouterr() == ("", "")


def test_a_call_of_a_finished_run_leaves_it(reached, capsys):
    before = rows(reached[0].path)
    run = curl_rl.train(**REACH, run_dir=reached[0].path)
    assert rows(run.path) == before
    assert "is finished: 120 frames" in capsys.readouterr().err


def test_a_call_begins_a_run_anew_and_keeps_the_old_one(reached, tmp_path):
    run_dir, heard = shutil.copytree(reached[0].path, tmp_path / "run"), []
    run = curl_rl.train(**REACH, run_dir=run_dir, restart=True, callback=lambda clock, _: heard.append(clock.frame))
    assert_equals(run.path, reached[0].path)
    assert_equals(run.path / "before-1", reached[0].path)
    assert heard == [clock.frame for clock, _ in reached[1]]
