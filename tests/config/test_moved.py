"""Keys of before: each says what it is called now, wherever it is read."""

import dataclasses
import json
import shutil
from typing import Any

import pytest
from places import ROOT
from test_own_classes import RUN, folder  # noqa: F401

from curl_rl import cli
from curl_rl.benchmark.plans import load_benchmark, make_plans
from curl_rl.config import overrides
from curl_rl.config.overrides import compose, hydra_arguments
from curl_rl.config.schema import GROUPS, Config
from curl_rl.types import ConfigError

# Every key that a configuration had before the modules moved into rooms, by the group that it stood in.
BEFORE = {
    "": "task preset seed run_dir device threads budget_frames random_steps batch_size updates_per_step agent encoder "
    "objective",
    "env": "obs image_size camera action_repeat frame_stack protocol timeout overlap",
    "replay": "capacity device n_step sampler exponent beta",
    "evaluation": "every_frames episodes final_episodes epsilon workers video",
    "checkpoint": "every_frames",
    "log": "every_updates",
    "agent": "name augmentation crop_size shift_pad translate_pad cutout_min cutout_max brightness contrast saturation "
    "hue hidden_dim learning_rate alpha_learning_rate discount init_temperature critic_tau encoder_tau actor_period "
    "target_period log_std_min log_std_max update precision capture atoms v_min v_max noise_std adam_epsilon "
    "max_grad_norm priority",
    "agent.augmentations": "k m",
    "encoder": "name feature_dim filters depth width",
    "objective": "name coefficient temperature period warmup projection_dim projection_hidden projection_tau "
    "queue_size clusters memory_size memory_tau radius radius_gap min_samples neighbors expansion join logit_scale "
    "initial_weight redundancy_weight invariance_weight variance_weight covariance_weight epsilon labels anchors "
    "classes memory added negatives distance projection_depth bins hardest mixed mixed_with_query use_momentum "
    "predictor_hidden prototypes sinkhorn_iterations queue_start freeze_updates store_size iterations steps latent_dim "
    "hidden_dim compressor_tau map_size belief_dim",
}
# How an override was written, what is told of its key, and how it is written now.
MOVED = {
    "replay.n_step=2": ("agent.n_step", "agent.n_step=2"),
    "agent.augmentation=crop": ("augmentation", "augmentation=crop augmentation.size=24"),
    "agent.augmentations.k=2": ("agent.averaging.k", "agent.averaging.k=2"),
    "agent.augmentations.m=2": ("agent.averaging.m", "agent.averaging.m=2"),
    "agent.crop_size=24": ("augmentation.size of augmentation=crop", "augmentation=crop augmentation.size=24"),
    "agent.shift_pad=1": ("augmentation.pad of augmentation=shift and crop_shift", "augmentation.pad=1"),
    "agent.translate_pad=1": (
        "augmentation.pad of augmentation=translate",
        "augmentation=translate augmentation.pad=1",
    ),
    "agent.cutout_min=1": (
        "augmentation.least of augmentation=cutout",
        "augmentation=cutout augmentation.least=1 augmentation.most=9",
    ),
    "agent.cutout_max=11": ("augmentation.most of augmentation=cutout", "augmentation=cutout augmentation.most=11"),
    **{
        f"agent.{name}=0.1": (
            f"augmentation.{name} of augmentation=color_jitter",
            f"augmentation=color_jitter augmentation.{name}=0.1",
        )
        for name in ("brightness", "contrast", "saturation", "hue")
    },
}


def known() -> set[str]:
    """Return every key that some configuration has now."""
    found: set[str] = set()

    def collect(options: type, prefix: str) -> None:
        for field in dataclasses.fields(options):
            found.add(prefix + field.name)
            if isinstance(field.default_factory, type) and dataclasses.is_dataclass(field.default_factory):
                collect(field.default_factory, f"{prefix}{field.name}.")

    collect(Config, "")
    for group, registry in GROUPS.items():
        for cls in registry.values():
            collect(cls.Config, f"{group}.")
    return found


def test_a_key_of_before_is_a_key_still_or_says_its_new_name():
    before = {f"{group}.{name}".lstrip(".") for group, names in BEFORE.items() for name in names.split()}
    assert len(before) == 125
    assert before - known() == {override.partition("=")[0] for override in MOVED}


@pytest.mark.parametrize("override", MOVED)
@pytest.mark.parametrize("start", ["task=toy/reach", "task=toy/grid preset=rainbow", "task=atari/pong"])
def test_an_override_of_before_is_refused_with_its_new_key(start, override):
    key, _, value = override.partition("=")
    for refuse, given in ((compose, [override]), (hydra_arguments, ["--multirun", f"{override},{value}"])):
        with pytest.raises(ConfigError) as error:
            refuse([*start.split(), *given])
        assert str(error.value) == f"{key!r} is {MOVED[override][0]} now"


@pytest.mark.parametrize("override", MOVED)
def test_its_new_key_is_taken(override):
    now, written = MOVED[override]
    assert compose(["task=toy/reach", "encoder.filters=4", *written.split()])
    assert now.split()[0] in written


def test_a_group_in_braces_is_told_too():
    for override, told in (
        ("replay={n_step: 2}", "'replay.n_step' is agent.n_step now"),
        ("agent.augmentations={k: 2}", "'agent.augmentations.k' is agent.averaging.k now"),
    ):
        with pytest.raises(ConfigError) as error:
            compose(["task=toy/reach", override])
        assert str(error.value) == told


def test_benchmarks_of_before_are_refused_with_the_new_key(tmp_path):
    text = "tasks: [toy/reach]\nsettings: {{{}}}\nmethods: {{curl: {{objective: curl{}}}}}\n"
    for settings, method in (("replay.n_step: 2", ""), ("batch_size: 4", ", replay.n_step: 2")):
        path = tmp_path / "mine.yaml"
        path.write_text(text.format(settings, method))
        with pytest.raises(ConfigError, match=r"^'replay.n_step' is agent.n_step now$"):
            make_plans(load_benchmark(str(path)), [], "out")


def before(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of SAC as it was written before."""
    agent = settings["agent"] | {
        "augmentation": "shift",
        "shift_pad": 2,
        "augmentations": settings["agent"]["averaging"],
    }
    replay = settings["replay"] | {"n_step": agent.pop("n_step")}
    del agent["averaging"]
    kept = {key: value for key, value in settings.items() if key != "augmentation"}
    return kept | {"agent": agent, "replay": replay}


def test_settings_of_before_are_refused_with_the_new_key():
    now = compose(["task=toy/reach"]).to_dict()
    with pytest.raises(ConfigError) as error:
        Config.from_dict(before(now))
    assert str(error.value) == "'replay.n_step' is agent.n_step now"
    now["agent"]["crop_size"] = 24
    with pytest.raises(ConfigError, match=r"^'agent\.crop_size' is augmentation\.size of augmentation=crop now$"):
        Config.from_dict(now)


def test_a_run_of_before_is_refused_in_one_line(tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["train", *RUN, f"run_dir={run}"]) == 0
    capsys.readouterr()
    stored = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(before(stored)))
    for arguments in (["train", f"run_dir={run}"], ["evaluate", str(run)], ["export", str(run), "--out", "out"]):
        assert cli.main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(
            f"curl-rl: {run}/config.json cannot be read (it has no augmentation, so another version "
        )
    (run / "config.json").write_text(json.dumps(before(stored) | {"augmentation": stored["augmentation"]}))
    assert cli.main(["train", f"run_dir={run}"]) == 2
    told = f"{run}/config.json cannot be read ('replay.n_step' is agent.n_step now): "
    assert told in capsys.readouterr().err


def test_a_class_of_ones_own_may_have_an_option_that_is_so_called(folder):  # noqa: F811
    text = (folder / "mine.py").read_text()
    (folder / "mine.py").write_text(
        text.replace("    calm: float", "    hue: float = option(0.5, '')\n    calm: float")
    )
    config = compose(["task=toy/reach", "agent=mine:Calm", "agent.hue=0.1"])
    assert config.agent.hue == 0.1
    assert Config.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("override", "now"),
    [("agent.augmentations=2", "agent.averaging"), ("agent.augmentation={a: 1}", "augmentation")],
)
def test_a_group_of_before_names_the_new_one(override, now):
    with pytest.raises(ConfigError, match=f"is {now} now"):
        compose(["task=toy/reach", override])


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ("agent: {crop_size: 12}", "'agent.crop_size' is augmentation.size of augmentation=crop now"),
        ("agent: {augmentations: {k: 2}}", "is agent.averaging"),
        ("replay: {n_step: 3}", "'replay.n_step' is agent.n_step now"),
        ("agent: {hiden_dim: 7}", "hiden_dim"),
    ],
)
def test_a_preset_of_ones_own_with_a_key_of_before_or_a_misspelt_one_is_refused(tmp_path, monkeypatch, lines, fault):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "configs/preset/toy/mine.yaml").write_text(f"# @package _global_\npreset: mine\n{lines}\n")
    monkeypatch.setattr(overrides, "config_dir", lambda: tmp_path / "configs")
    with pytest.raises(ConfigError, match=fault):
        compose(["task=toy/reach", "preset=mine"])


def test_a_preset_may_set_what_only_its_own_choice_has(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    text = "# @package _global_\npreset: mine\nagent: {atoms: 21, hidden_dim: 32}\n"
    (tmp_path / "configs/preset/toy/mine.yaml").write_text(text)
    monkeypatch.setattr(overrides, "config_dir", lambda: tmp_path / "configs")
    assert compose(["task=toy/grid", "preset=mine", "agent=rainbow", "random_steps=50"]).agent.atoms == 21
    assert compose(["task=toy/reach", "preset=mine", "random_steps=50"]).agent.hidden_dim == 32
