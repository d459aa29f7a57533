"""The loop with Rainbow on Atari: lives, clipped rewards, discrete actions, and exact resume in mid-game."""

import csv
import json
import signal
from pathlib import Path

import pytest
import torch
from runs import assert_goes_on_to, manifests, rows, start, state, wait_for

from curl_rl.config.overrides import compose
from curl_rl.run import trainer
from curl_rl.run.playing import evaluate_run
from curl_rl.types import ConfigError

# 200 agent steps of Breakout, some lives and a game long; a random player ends its games soon.
SMALL = (
    "task=atari/breakout",
    "device=cpu",
    "threads=1",
    "budget_frames=800",
    "random_steps=40",
    "batch_size=8",
    "agent.n_step=3",
    "agent.hidden_dim=16",
    "agent.atoms=11",
    "agent.target_period=30",
    "objective.projection_dim=8",
    "objective.projection_hidden=8",
    "evaluation.every_frames=400",
    "evaluation.episodes=2",
    "evaluation.final_episodes=3",
    "evaluation.workers=2",
    "evaluation.epsilon=1",
    "checkpoint.every_frames=120",
    "log.every_updates=30",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """An uninterrupted run."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    assert trainer.train(compose([*SMALL, f"run_dir={run_dir}"])) == 0
    return run_dir


def test_a_run_killed_in_mid_game_equals_an_uninterrupted_one(finished, tmp_path):
    run_dir = tmp_path / "run"
    for kill in range(2):
        before = manifests(run_dir) | {"manifest-000000000000.json"}
        process = start(run_dir, *SMALL)
        wait_for(lambda before=before: manifests(run_dir) - before, process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, f"run ended before kill {kill}"
        assert state(run_dir)["episode"]["actions"].numel() > 0
    assert_goes_on_to(finished, run_dir, *SMALL)


def test_a_run_killed_before_a_reset_equals_an_uninterrupted_one(tmp_path):
    cycle = ("agent.resets.every=60", "agent.anneal.updates=40", "agent.explore.steps=100")
    settings = (*SMALL, "preset=efficient", *cycle)
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    assert trainer.train(compose([*settings, f"run_dir={whole}"])) == 0
    process = start(run_dir, *settings)
    wait_for(lambda: len(manifests(run_dir)) > 1, process)
    process.kill()
    process.communicate()
    assert state(run_dir)["agent"]["updates"] < 120
    assert_goes_on_to(whole, run_dir, *settings)


def test_frames_are_four_a_step_and_the_last_evaluation_is_longer(finished):
    read = rows(finished)
    assert [row[:3] for row in read] == [("100", "400", "60")] * 2 + [("200", "800", "160")] * 3


def test_every_row_and_the_metadata_carry_the_protocols_hash(finished):
    (start,) = json.loads((finished / "metadata.json").read_text())["starts"]
    assert start["protocol"]["name"] == "atari100k"
    with (finished / "eval.csv").open() as file:
        assert {row["protocol"] for row in csv.DictReader(file)} == {start["protocol"]["hash"]}


def test_evaluation_does_not_depend_on_how_many_games_run_at_once(finished, monkeypatch):
    many = evaluate_run(finished, 4, None, seed=3, device="cpu")
    monkeypatch.setattr("curl_rl.run.judging._LANES", 1)
    assert evaluate_run(finished, 4, None, seed=3, device="cpu") == many


class Watched:
    """An agent that keeps the batches it learned from."""

    def __init__(self, agent):
        self.agent, self.batches = agent, []

    def __getattr__(self, name):
        return getattr(self.agent, name)

    def update(self, batch):
        self.batches.append(batch._replace(reward=batch.reward.clone(), discount=batch.discount.clone()))
        return self.agent.update(batch)


@pytest.mark.parametrize("game", ["breakout", "ms_pacman"])
def test_learning_sees_clipped_rewards_and_lives_and_the_log_does_not(game, tmp_path, monkeypatch):
    agents, adds = [], []
    make, add = trainer.make_agent, trainer.make_replay

    def watched_agent(*arguments):
        agents.append(Watched(make(*arguments)))
        return agents[0]

    def watched_replay(*arguments):
        replay = add(*arguments)
        store = replay.add

        def keep(action, reward, terminated, truncated, frame, **more):
            adds.append((reward, terminated, more["life_lost"]))
            store(action, reward, terminated, truncated, frame, **more)

        replay.add = keep
        return replay

    monkeypatch.setattr(trainer, "make_agent", watched_agent)
    monkeypatch.setattr(trainer, "make_replay", watched_replay)
    steps = 1200 if game == "breakout" else 700
    overrides = [*SMALL, f"task=atari/{game}", f"run_dir={tmp_path}", f"budget_frames={4 * steps}"]
    overrides += [f"random_steps={steps - 20}", "evaluation.every_frames=100000", "evaluation.final_episodes=1"]
    assert trainer.train(compose(overrides)) == 0
    rewards, ends, lives = zip(*adds, strict=True)
    assert set(rewards) <= {-1.0, 0.0, 1.0}
    assert sum(ends) >= 1
    assert sum(lives) == pytest.approx((4 if game == "breakout" else 2) * sum(ends), abs=4)
    with (tmp_path / "train.csv").open() as file:
        returns = [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "return"]
    assert len(returns) == sum(ends)
    if game == "ms_pacman":
        assert min(returns) >= 60
        assert sum(rewards) < max(returns)
    discounts = torch.cat([batch.discount for batch in agents[0].batches])
    assert (discounts == 0).any()


def test_an_agent_for_other_actions_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"agent=sac needs continuous actions.*choose agent=rainbow"):
        trainer.train(compose(["task=toy/grid", f"run_dir={tmp_path}", "device=cpu"]))
    with pytest.raises(ConfigError, match=r"agent=rainbow needs discrete actions.*choose agent=sac"):
        trainer.train(compose(["task=toy/reach", "preset=rainbow", f"run_dir={tmp_path}", "device=cpu"]))
