"""A run that starts from a trained encoder: what it takes of it, what stays as it was, and what is refused."""

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from runs import SMALL

from curl_rl.config.overrides import compose
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.representation.export import export_run, load_encoder, save_encoder
from curl_rl.run.folder import EncoderError
from curl_rl.run.playing import evaluate_run
from curl_rl.run.stored import configure
from curl_rl.run.trainer import Trainer, train
from curl_rl.types import ConfigError

LOCAL = ("device=cpu", "threads=1", "env.overlap=false", "evaluation.workers=1")
OWN = [text for text in SMALL if not text.startswith("encoder.")]
CONFIG = {"name": "small", "feature_dim": 8, "filters": 4}


@pytest.fixture
def folder(tmp_path) -> Path:
    torch.manual_seed(5)
    encoder = make_encoder(encoder_config(**CONFIG), (6, 24, 24))
    return save_encoder(encoder, {**CONFIG}, (6, 28, 28), tmp_path / "enc")


def settings(folder: Path, run_dir: Path, *more: str) -> list[str]:
    return [*OWN, *LOCAL, f"pretrained.path={folder}", f"run_dir={run_dir}", *more]


def weights(module) -> dict:
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


GRID = ["task=toy/grid", "preset=rainbow", "random_steps=40", "evaluation.every_frames=160", "evaluation.episodes=2"]
AGENTS = {"sac": [*SMALL[:1], *OWN[1:]], "rainbow": GRID}


def trained(words: list[str], out: Path) -> Path:
    """Write the folder of an encoder that fits these settings."""
    with ExitStack() as cleanup:
        trainer = Trainer(compose([*words, *LOCAL, f"run_dir={out}-run"]), cleanup)
        encoder, config = trainer.agent.learner.encoder, trainer.config
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        size = config.env.image_size
        return save_encoder(encoder, dataclasses.asdict(config.encoder), (encoder.obs_shape[0], size, size), out)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("objective", ["none", "curl", "spr"])
@pytest.mark.parametrize("freeze", [True, False])
def test_a_run_starts_from_the_weights_and_a_frozen_encoder_stays(tmp_path, agent, objective, freeze):
    folder = trained(AGENTS[agent], tmp_path / "enc")
    own = [f"objective={objective}", f"pretrained.path={folder}", f"pretrained.freeze={str(freeze).lower()}"]
    given = weights(load_encoder(folder).encoder)
    with ExitStack() as cleanup:
        words = [*AGENTS[agent], *LOCAL, *own, "budget_frames=160", f"run_dir={tmp_path / 'run'}"]
        trainer = Trainer(compose(words), cleanup)
        assert same(weights(trainer.agent.learner.encoder), given)
        assert same(weights(trainer.agent.learner.target_encoder), given)
        others = str(trainer.agent.state_dict())
        assert trainer.run() == 0
        assert same(weights(trainer.agent.learner.encoder), given) == freeze
        assert same(weights(trainer.agent.learner.target_encoder), given) or not freeze
        assert str(trainer.agent.state_dict()) != others


def test_the_architecture_is_the_folders(folder):
    config = compose([*SMALL[:1], "augmentation=crop", "augmentation.size=24", f"pretrained.path={folder}"])
    assert (config.encoder.name, config.encoder.filters, config.encoder.feature_dim) == ("small", 4, 8)
    same_words = compose([*SMALL[:1], "encoder=small", "encoder.filters=4", f"pretrained.path={folder}"])
    assert same_words.encoder == config.encoder


def test_a_resume_compares_the_weights(folder, tmp_path):
    run_dir = tmp_path / "run"
    own = settings(folder, run_dir, "budget_frames=160")
    assert train(configure(own)) == 0
    (start,) = json.loads((run_dir / "metadata.json").read_text())["starts"]
    assert start["pretrained"] == json.loads((folder / "config.json").read_text())["weights"]
    moved = folder.rename(tmp_path / "moved")
    config = configure([f"run_dir={run_dir}", f"pretrained.path={moved}"])
    with ExitStack() as cleanup:
        trainer = Trainer(config, cleanup)
        assert trainer.run() == 0
    torch.manual_seed(6)
    save_encoder(make_encoder(encoder_config(**CONFIG), (6, 24, 24)), {**CONFIG}, (6, 28, 28), moved)
    with (
        ExitStack() as cleanup,
        pytest.raises(
            ConfigError, match=r"(?s)of another configuration:\n  pretrained: .*the encoder, unchanged, from which"
        ),
    ):
        Trainer(config, cleanup).run()


def test_what_it_started_from_may_go_once_it_has_begun(folder, tmp_path):
    run_dir = tmp_path / "run"
    with ExitStack() as cleanup:
        trainer = Trainer(compose(settings(folder, run_dir, "budget_frames=160")), cleanup)
        (folder / "config.json").unlink()
        assert trainer.run() == 0
    assert len(evaluate_run(run_dir, 1, None, 0, "cpu")) == 1
    assert export_run(run_dir, tmp_path / "again").is_dir()
    with ExitStack() as cleanup, pytest.raises(ConfigError, match=r"put back the one that was there"):
        Trainer(configure([f"run_dir={run_dir}"]), cleanup)
    assert train(configure([f"run_dir={run_dir}"])) == 0  # finished, it needs it no more


def test_a_finished_run_is_not_said_to_have_begun_from_another_encoder(folder, tmp_path):
    run_dir = tmp_path / "run"
    given = settings(folder, run_dir, "budget_frames=160")
    assert train(configure(given)) == 0
    torch.manual_seed(6)
    other = save_encoder(
        make_encoder(encoder_config(**CONFIG), (6, 24, 24)), {**CONFIG}, (6, 28, 28), tmp_path / "other"
    )
    with pytest.raises(ConfigError, match=r"(?s)another configuration:.*pretrained: .*leave pretrained.path out"):
        train(configure([f"run_dir={run_dir}", f"pretrained.path={other}"]))
    assert train(configure([f"run_dir={run_dir}", f"pretrained.path={folder.rename(tmp_path / 'moved')}"])) == 0


def test_a_frozen_encoder_that_moves_stops_the_run(folder, tmp_path):
    words = settings(folder, tmp_path / "run", "budget_frames=160", "pretrained.freeze=true")
    with ExitStack() as cleanup:
        trainer = Trainer(compose(words), cleanup)
        with torch.no_grad():
            next(trainer.agent.learner.encoder.parameters()).add_(1)
        with pytest.raises(ConfigError, match="was to stay as it is and has changed"):
            trainer.run()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["encoder=strided"], "encoder=strided contradicts pretrained.path=.*enc, which holds encoder=small: leave it"),
        (["encoder.filters=8"], "encoder.filters=8 contradicts pretrained.path=.*enc, which holds encoder.filters=4"),
        (["pretrained.path=''", "pretrained.freeze=true"], "pretrained.freeze=true has no effect with pretrained.path"),
        (["pretrained.path='no where'"], "is no encoder's folder .its config.json cannot be read, No such file"),
        (
            ["task=toy/grid", "preset=rainbow", "agent.resets.every=10", "pretrained.freeze=true"],
            "agent.resets.every=10 replaces a part of the encoder, and pretrained.freeze=true keeps it",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_contradict_the_folder(folder, more, message):
    with pytest.raises(ConfigError, match=message):
        compose(["task=toy/reach", f"pretrained.path={folder}", *more])


def test_folders_that_do_not_fit(folder, tmp_path):
    def start(*more: str) -> None:
        with ExitStack() as cleanup:
            Trainer(compose(settings(folder, tmp_path / "run", *more)), cleanup)

    with pytest.raises(ConfigError, match=r"takes images \(6, 24, 24\), and this run shows it \(6, 22, 22\): set env"):
        start("augmentation.size=22")
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, "task": "forged"}))
    with pytest.raises(EncoderError, match="it is not as it was exported, by its checksum"):
        start()
    (folder / "config.json").write_text(json.dumps({**described, "encoder": {"name": "tap", "layer": "x"}}))
    with pytest.raises(ConfigError, match="holds a network of your own; an agent takes an encoder of curl_rl"):
        start()
    assert not (tmp_path / "run").exists()
