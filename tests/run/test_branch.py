"""A run that starts from another: what it takes, that it needs it no more once it has begun, and what is refused."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import runs
import torch

from curl_rl.config.overrides import compose
from curl_rl.run.checkpoint import Checkpoints
from curl_rl.run.folder import weights_hash
from curl_rl.run.playing import load_agent, load_played
from curl_rl.run.restart import begin_anew
from curl_rl.run.stored import configure
from curl_rl.run.trainer import Trainer, train
from curl_rl.types import ConfigError

LOCAL = ("device=cpu", "threads=1", "env.overlap=false", "evaluation.workers=1")
SAC = (*runs.SMALL, *LOCAL, "budget_frames=60")
GRID = ("task=toy/grid", "preset=rainbow", "random_steps=40", "evaluation.every_frames=60", "evaluation.episodes=2")
RAINBOW = (*GRID, *LOCAL, "budget_frames=60", "checkpoint.every_frames=20", "encoder.feature_dim=16")
AGENTS = {"sac": SAC, "rainbow": RAINBOW}


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("others")
    for name, words in AGENTS.items():
        assert train(compose([*words, f"run_dir={place / name}"])) == 0
    return {name: place / name for name in AGENTS}


def started(*words: str) -> Trainer:
    """Return a trainer that has trained until its first step."""
    with ExitStack() as cleanup, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_loop", lambda self: None)
        trainer = Trainer(configure(words), cleanup)
        assert trainer.run() == 0
        return trainer


def weights(module: torch.nn.Module) -> dict:
    return dict(module.state_dict())


@pytest.mark.parametrize("name", AGENTS)
def test_a_run_begins_with_the_policy_that_the_other_ended_with(others, tmp_path, name):
    run_dir = tmp_path / "run"
    trainer = started(*AGENTS[name], f"from_run={others[name]}", "seed=7", f"run_dir={run_dir}")
    ended = load_agent(others[name], "cpu")
    obs = np.random.default_rng(0).integers(0, 256, (16, *trainer.rollout.stack.observation().shape), np.uint8)
    np.testing.assert_array_equal(trainer.agent.act(obs, explore=False), ended.act(obs, explore=False))
    new, old = trainer.agent.state_dict(), ended.state_dict()
    learner, streams = new.pop("learner"), {new.pop("generator"): old.pop("generator")}
    streams |= {learner.pop("generator"): old["learner"].pop("generator")}
    runs.assert_same(new, {key: value for key, value in old.items() if key != "learner"})  # optimisers too
    runs.assert_same(learner, old["learner"])
    assert not any(torch.equal(*pair) for pair in streams.items())  # drawn from the new seed
    assert trainer.clock == (0, 0, 0)
    assert len(trainer.replay) == 0
    (start,) = json.loads((run_dir / "metadata.json").read_text())["starts"]
    told = {key: start["from_run"][key] for key in ("run", "checkpoint", "frame", "part")}
    assert told == {"run": str(others[name]), "checkpoint": 60, "frame": 60, "part": "agent"}
    assert len(start["from_run"]["weights"]) == 64


@pytest.mark.parametrize("name", AGENTS)
def test_the_encoder_alone_is_taken_with_its_architecture(others, tmp_path, name):
    words = [word for word in AGENTS[name] if not word.startswith("encoder.")]
    more = ("objective=none", "from=encoder", f"from_run={others[name]}", f"run_dir={tmp_path / 'run'}", "seed=7")
    trainer, ended = started(*words, *more), load_agent(others[name], "cpu")
    given = weights(ended.learner.encoder)
    for encoder in (trainer.agent.learner.encoder, trainer.agent.learner.target_encoder):
        runs.assert_same(weights(encoder), given)
    head = trainer.agent.critic if name == "sac" else trainer.agent.heads
    fresh = started(*AGENTS[name], "objective=none", f"run_dir={tmp_path / 'fresh'}", "seed=7").agent
    runs.assert_same(weights(head), weights(fresh.critic if name == "sac" else fresh.heads))
    (start,) = json.loads((tmp_path / "run" / "metadata.json").read_text())["starts"]
    assert start["from_run"]["part"] == "encoder"
    assert start["from_run"]["weights"] == weights_hash(ended.learner.encoder)


def test_a_resume_is_exact_and_needs_the_other_no_more(others, tmp_path, monkeypatch):
    other = shutil.copytree(others["sac"], tmp_path / "other")
    words = [*SAC, f"from_run={other}", "seed=7"]
    assert train(configure([*words, f"run_dir={tmp_path / 'whole'}"])) == 0
    step = Trainer._step

    def stop_at_53(self):
        step(self)
        if self.clock.frame == 53:
            raise KeyboardInterrupt

    cut = configure([*words, f"run_dir={tmp_path / 'cut'}"])
    monkeypatch.setattr(Trainer, "_step", stop_at_53)
    with pytest.raises(KeyboardInterrupt):
        train(cut)
    monkeypatch.undo()
    shutil.rmtree(other)
    assert train(configure([f"run_dir={tmp_path / 'cut'}"])) == 0
    runs.assert_equals(tmp_path / "cut", tmp_path / "whole")
    assert load_played(tmp_path / "cut")[1]["clock"][0] == 60
    with pytest.raises(ConfigError, match=r"from_run=.*other is no run"):
        configure([*words, f"run_dir={tmp_path / 'third'}"])


def test_the_new_learning_rate_holds(others, tmp_path):
    trainer = started(*SAC, f"from_run={others['sac']}", "agent.learning_rate=3e-4", f"run_dir={tmp_path / 'run'}")
    assert trainer.agent.optimizers["critic"].param_groups[0]["lr"] == 3e-4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["objective=none"], "was trained with objective=curl, this run has objective=none: give objective=curl, or"),
        (["agent.hidden_dim=8"], r"agent\.critic\..* is .*16.* there and .*8.* in this run: give agent, obj"),
        (["augmentation.size=22"], r"takes images \(6, 24, 24\), and this run shows it \(6, 22, 22\): set env"),
        (["encoder.filters=8"], "encoder.filters=8 contradicts from_run=.*, which holds encoder.filters=4"),
        (["pretrained.path=enc"], "from_run=.* and pretrained.path=enc both give an encoder: leave one out"),
        (["from=replay"], "from_part='replay' is none of agent, encoder"),
        (["from_run=''", "from=encoder"], "from=encoder has no effect without from_run"),
        (["agent.update=joint"], "optimizers|does not fit"),
    ],
    ids=lambda value: value[-1].partition("=")[0] if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(others, tmp_path, more, message):
    words = {word.partition("=")[0]: word for word in (*SAC, f"from_run={others['sac']}", *more)}
    with pytest.raises(ConfigError, match=message):
        started(*words.values(), f"run_dir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


def test_another_agent_a_folder_and_the_run_itself_are_refused(others, tmp_path):
    words = [word for word in GRID if not word.startswith("encoder")]
    with pytest.raises(ConfigError, match="was trained with agent=sac, this run has agent=rainbow"):
        started(*words, *LOCAL, "budget_frames=60", f"from_run={others['sac']}", f"run_dir={tmp_path / 'run'}")
    empty = tmp_path / "empty"
    shutil.copytree(others["sac"], empty, ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(ConfigError, match=r"checkpoints of .*empty were deleted"):
        started(*SAC, f"from_run={empty}", f"run_dir={tmp_path / 'run'}")
    for path in empty.iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ConfigError, match="is the run itself: leave it out to go on, or give another run_dir"):
        started(*SAC, f"from_run={empty}", f"run_dir={empty}")
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == []


def test_one_that_begins_anew_starts_from_the_other_again(others, tmp_path):
    run_dir = tmp_path / "run"
    assert train(configure([*SAC, f"from_run={others['sac']}", "seed=7", f"run_dir={run_dir}"])) == 0
    assert begin_anew(configure([f"run_dir={run_dir}"], restart=True)) == 0
    told = [json.loads((place / "metadata.json").read_text())["starts"] for place in (run_dir, run_dir / "before-1")]
    ((now,), (before,)) = told
    assert now["from_run"] == before["from_run"]
    runs.assert_equals(run_dir, run_dir / "before-1")
