"""The loop on the toy task: it learns, it repeats itself, and it survives being killed."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from runs import assert_equals, assert_goes_on_to, assert_same, kill_at, manifests, rows, start, state, wait_for

from curl_rl.config.overrides import compose
from curl_rl.config.schema import Config
from curl_rl.objectives import OBJECTIVES
from curl_rl.run import judging, trainer
from curl_rl.run.locks import alone
from curl_rl.run.rollout import Rollout, random_action
from curl_rl.types import ConfigError

# Two of them always, all of them with -m learning.
EVERY = [
    name if name in ("curl", "none") else pytest.param(name, marks=pytest.mark.learning) for name in sorted(OBJECTIVES)
]
SMALL = (*runs.SMALL, "device=cpu", "threads=1", "evaluation.episodes=3", "evaluation.workers=2")


def small(run_dir: Path, *more: str) -> Config:
    return compose([*SMALL, f"run_dir={run_dir}", *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """An uninterrupted run."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    assert trainer.train(small(run_dir)) == 0
    return run_dir


def test_rows_carry_the_three_counts(finished):
    read = rows(finished)
    assert [row[:3] for row in read[::3]] == [("110", "110", "70"), ("220", "220", "180"), ("330", "330", "290")]
    assert [row[3] for row in read[:3]] == ["0", "1", "2"]
    metadata = json.loads((finished / "metadata.json").read_text())
    assert metadata["starts"][0]["seed"] == 1
    assert (finished / "tensorboard").is_dir()


@pytest.mark.slow
def test_a_run_killed_again_and_again_equals_an_uninterrupted_one(finished, tmp_path):
    run_dir, rng = tmp_path / "run", np.random.default_rng(3)
    for kill in range(3):
        before = manifests(run_dir)
        process = start(run_dir, *SMALL)
        wait_for(lambda before=before: manifests(run_dir) - before, process)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, f"run ended before kill {kill}"
    assert_goes_on_to(finished, run_dir, *SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_checkpoints_and_the_same_command_goes_on(finished, tmp_path, number):
    run_dir = tmp_path / "run"
    process = start(run_dir, *SMALL)
    wait_for(lambda: manifests(run_dir), process)
    os.kill(process.pid, number)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 128 + number, output
    assert "goes on" in output
    assert state(run_dir)["clock"][0] < 330
    assert trainer.train(small(run_dir)) == 0
    assert_equals(run_dir, finished)


def test_a_signal_in_an_evaluation_leaves_it_to_the_resumed_run(finished, tmp_path, monkeypatch):
    run_dir, play = tmp_path / "run", judging.evaluate

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return play(*arguments, **options)

    monkeypatch.setattr(judging, "evaluate", interrupted)
    assert trainer.train(small(run_dir)) == 128 + signal.SIGTERM
    assert rows(run_dir) == []
    monkeypatch.setattr(judging, "evaluate", play)
    assert trainer.train(small(run_dir)) == 0
    assert_equals(run_dir, finished)


def test_rows_of_an_evaluation_that_no_checkpoint_knows_are_written_once(finished, tmp_path, monkeypatch):
    run_dir, saves = tmp_path / "run", trainer.Trainer._save

    def die_after_the_evaluation(self):
        if self.clock.frame >= 110:
            raise KeyboardInterrupt
        saves(self)

    monkeypatch.setattr(trainer.Trainer, "_save", die_after_the_evaluation)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(small(run_dir))
    assert len(rows(run_dir)) == 3
    monkeypatch.setattr(trainer.Trainer, "_save", saves)
    assert trainer.train(small(run_dir)) == 0
    assert_equals(run_dir, finished)


def test_a_signal_before_the_first_step_loses_and_doubles_nothing(finished, tmp_path, monkeypatch):
    run_dir, begin = tmp_path / "run", Rollout.start

    def interrupted(self, saved):
        begin(self, saved)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Rollout, "start", interrupted)
    assert trainer.train(small(run_dir)) == 128 + signal.SIGTERM
    assert state(run_dir)["clock"][0] == 0
    monkeypatch.setattr(Rollout, "start", begin)
    assert trainer.train(small(run_dir)) == 0
    assert_equals(run_dir, finished)


def test_a_rainbow_that_diverges_says_so(tmp_path):
    overrides = ["task=toy/grid", "preset=rainbow", "device=cpu", f"run_dir={tmp_path}", "agent.learning_rate=1e6"]
    with pytest.raises(FloatingPointError, match=r"lower agent\.learning_rate"):
        trainer.train(compose([*overrides, "random_steps=40"]))


def test_two_processes_do_not_train_in_one_directory(tmp_path):
    held = alone(tmp_path / ".lock", "held")
    with held, pytest.raises(ConfigError, match="another process trains"):
        trainer.train(small(tmp_path))


def test_a_run_without_a_checkpoint_claims_nothing(tmp_path):
    tmp_path.joinpath("config.json").write_text(json.dumps(small(tmp_path, "batch_size=16").to_dict()))
    assert trainer.train(small(tmp_path, "budget_frames=60")) == 0
    assert state(tmp_path)["clock"][0] == 60


def test_a_run_in_processes_of_their_own_is_the_same(finished, tmp_path):
    run_dir = tmp_path / "run"
    assert trainer.train(small(run_dir, "env.overlap=true")) == 0
    assert rows(run_dir) == rows(finished)
    assert_same(state(run_dir)["agent"], state(finished)["agent"])


def test_one_seed_repeats_and_another_differs(finished, tmp_path):
    assert trainer.train(small(tmp_path / "again")) == 0
    assert trainer.train(small(tmp_path / "other", "seed=2")) == 0
    assert_same(state(tmp_path / "again"), state(finished))
    assert rows(tmp_path / "other") != rows(finished)
    learners = [state(run_dir)["agent"]["learner"] for run_dir in (finished, tmp_path / "other")]
    assert not torch.equal(*(learner["encoder"]["convs.0.weight"] for learner in learners))


def test_a_broken_loss_stops_the_run_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    good = trainer.make_agent

    def poisoned(*arguments):
        agent = good(*arguments)
        update = agent.update

        def update_then_break(batch):
            result = update(batch)
            if agent.updates == 100:
                result.metrics["critic_loss"].fill_(float("nan"))
            return result

        agent.update = update_then_break
        return agent

    monkeypatch.setattr(trainer, "make_agent", poisoned)
    with pytest.raises(FloatingPointError, match="critic_loss is nan"):
        trainer.train(small(run_dir))
    assert state(run_dir)["clock"][0] == 100


def test_the_checkpoint_before_a_torn_one_is_used(finished, tmp_path, capsys):
    run_dir = tmp_path / "run"
    kill_at(120, small(run_dir))
    newest = max((run_dir / "checkpoints").glob("state-*"))
    newest.write_bytes(newest.read_bytes()[:1000])
    assert trainer.train(small(run_dir)) == 0
    assert "using checkpoint 50" in capsys.readouterr().err
    assert_equals(run_dir, finished)


def test_an_unwritable_run_dir_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="is a file, no folder; give another place"):
        trainer.train(small(tmp_path / "file" / "run"))


def test_an_absent_device_is_one_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="use device=cpu"):
        trainer.train(small(tmp_path / "run", "device=cuda:99"))


def test_a_replay_larger_than_memory_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"smaller replay\.capacity"):
        trainer.train(small(tmp_path / "run", "replay.capacity=1_000_000_000", "budget_frames=1_000_000_000"))


@pytest.mark.slow
@pytest.mark.parametrize("objective", EVERY)
def test_the_toy_task_is_learned(tmp_path, objective):
    overrides = ["task=toy/reach", "device=cpu", "threads=1", f"objective={objective}", f"run_dir={tmp_path}"]
    config = compose([*overrides, "budget_frames=2_000", "evaluation.every_frames=2_000"])
    assert trainer.train(config) == 0
    final = [float(row[4]) for row in rows(tmp_path) if row[0] == str(config.budget_frames)]
    random = _random_return()
    assert len(final) == 20
    assert np.mean(final) > 1.8 * random, f"{final} against {random} of a random policy"


@pytest.mark.slow
@pytest.mark.parametrize("objective", EVERY)
def test_the_discrete_toy_task_is_learned_by_rainbow(tmp_path, objective):
    frames = 6_000 if objective in ("curl", "none") else 9_000  # simsiam needs them
    overrides = ["task=toy/grid", "preset=rainbow", "device=cpu", f"objective={objective}", f"run_dir={tmp_path}"]
    config = compose([*overrides, f"budget_frames={frames}", f"evaluation.every_frames={frames}"])
    assert trainer.train(config) == 0
    final = [float(row[4]) for row in rows(tmp_path) if row[0] == str(config.budget_frames)]
    random = _random_return("toy/grid")
    assert len(final) == 50
    assert np.mean(final) > 1.5 * random, f"{final} against {random} of a random policy"


def _random_return(task: str = "toy/reach") -> float:
    from curl_rl.envs import make_env

    env, rng = make_env(task), np.random.default_rng(0)
    total = 0.0
    for seed in range(50):
        env.reset(seed=seed)
        ended = False
        while not ended:
            _, reward, terminated, truncated, _ = env.step(random_action(env.action_space, rng))
            total, ended = total + float(reward), terminated or truncated
    return total / 50
