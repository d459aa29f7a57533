"""The command line: what it prints, which status it returns, and that it imports no more than it needs."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from places import ROOT

from curl_rl import __version__, cli, doctor, envs
from curl_rl.commands import finetune
from curl_rl.commands.arguments import overrides_of
from curl_rl.config.difference import flat
from curl_rl.config.finetuning import Distillation, Finetuning
from curl_rl.config.overrides import compose, hydra_arguments
from curl_rl.config.pretraining import Pretraining
from curl_rl.config.schema import GROUPS, from_node
from curl_rl.config.unknowns import Addition, Flagging
from curl_rl.options import kinds
from curl_rl.representation import export
from curl_rl.run import playing, trainer
from curl_rl.run.stored import save_config
from curl_rl.types import ConfigError, Episode


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(autouse=True)
def _away_from_the_users_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_without_a_command_it_shows_them_and_imports_nothing_heavy():
    code = (
        "import sys; from curl_rl.cli import main; assert main([]) == 0; "
        "print(sorted({'torch', 'hydra', 'numpy', 'gymnasium', 'dm_control', 'mujoco', 'envs'} & set(sys.modules)))"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    for command in ("train", "pretrain", "finetune", "distil", "evaluate", "benchmark", "report", "export", "doctor"):
        assert re.search(rf"\n    {command}\s", done.stdout)
    assert done.stdout.endswith("\n[]\n")


def test_version_and_module_entry():
    done = run("-m", "curl_rl", "--version")
    assert (done.returncode, done.stdout) == (0, f"curl-rl {__version__}\n")


def test_train_help_shows_every_group_option_and_field(capsys):
    assert cli.main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    for group, registry in GROUPS.items():
        for name, cls in registry.items():
            assert f"\n{group}={name}" in shown
            for field in flat(dataclasses.asdict(cls.Config())):
                assert field == "name" or f"\n  {group}.{field}=" in shown
    for key, value in flat(compose([]).to_dict()).items():
        if not key.endswith(".name"):
            assert f"\n  {key}={str(value).lower() if isinstance(value, bool) else value} " in shown
    # Every line of a setting says what it means.
    settings = [line for line in shown.splitlines() if line.startswith("  ") and "=" in line.split()[0]]
    assert len(settings) > 40
    assert all(len(line.split()) > 1 for line in settings)


def test_train_help_shows_the_values_of_what_is_asked(capsys):
    assert cli.main(["train", "task=dmc/cheetah_run", "preset=paper", "-h"]) == 0
    shown = capsys.readouterr().out
    assert "agent.learning_rate=0.0002 " in shown
    assert "encoder=paper (chosen)" in shown


@pytest.mark.parametrize(
    ("verb", "root", "usage"),
    [
        ("pretrain", Pretraining, "usage: curl-rl pretrain data=SOURCE out=DIR"),
        ("finetune", Finetuning, "usage: curl-rl finetune ENCODER --labels FILE --out DIR"),
        ("distil", Distillation, "usage: curl-rl distil CLASSIFIER --data SOURCE --out DIR"),
        ("learn", Addition, "usage: curl-rl learn CLASSIFIER --labels FILE --out DIR"),
    ],
    ids=["pretrain", "finetune", "distil", "learn"],
)
def test_help_without_an_agent_shows_every_group_and_setting(verb, root, usage, capsys):
    assert cli.main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(usage)
    for name in kinds(root):
        assert f"\n  {name} " in shown if name in GROUPS else f"\n  {name}=" in shown
    assert cli.main([verb, "augmentation=crop", "-h"]) == 0
    assert "\n  augmentation.size=84 " in capsys.readouterr().out


def test_help_on_flags_shows_every_setting_and_no_group(capsys):
    assert cli.main(["flag", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: curl-rl flag NETWORK --data SOURCE --out DIR")
    assert [name for name in kinds(Flagging) if f"\n  {name}=" not in shown] == []
    assert "Groups" not in shown


def test_words_stand_before_between_and_behind_options():
    told = ["--labels", "few.csv"], ["--out", "clf"]
    orders = (["enc", *told[0], "updates=3", *told[1]], [*told[0], "enc", *told[1], "updates=3"])
    for words in orders:
        arguments = cli._parser().parse_args(["finetune", *words])
        overrides = overrides_of(arguments, "pretrained", finetune.FLAGS)
        assert sorted(overrides) == ["labels=few.csv", "out=clf", "pretrained=enc", "updates=3"]


@pytest.mark.parametrize(
    "words", [["updates=3", "updates=4"], ["--labels", "few.csv", "labels=more.csv"]], ids=" ".join
)
def test_what_is_given_twice_is_refused(words, capsys):
    assert cli.main(["finetune", "enc", "--out", "clf", *words]) == 2
    assert f"{words[-1].partition('=')[0]} is given twice: give it once" in capsys.readouterr().err


def test_train_passes_the_configuration_and_its_status_on(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(trainer, "train", lambda config: seen.append(config) or 7)
    overrides = ["task=toy/reach", "seed=3", f"run_dir={tmp_path}"]
    assert cli.main(["train", *overrides]) == 7
    assert seen == [compose(overrides)]


def test_a_wrong_setting_is_one_line_and_status_two(capsys):
    assert cli.main(["train", "env.image_sise=84"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("curl-rl: unknown key 'env.image_sise'; did you mean env.image_size")
    assert output.err.count("\n") == 1


def test_another_configuration_of_a_run_is_refused_with_the_difference(capsys, tmp_path):
    save_config(compose(["task=toy/reach", "seed=3"]), tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "manifest-1").touch()
    assert cli.main(["train", "task=toy/reach", "seed=4", f"run_dir={tmp_path}"]) == 2
    assert "\n  seed: 3 -> 4\n" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "checkpoints"}


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ConfigError("crop too large"), 2, "curl-rl: crop too large\n"),
        (
            OSError(28, "No space left on device", "runs/x"),
            1,
            "cannot use runs/x: No space left on device; give another path\n",
        ),
        (
            RuntimeError(
                "[enforce fail] can't allocate memory: you tried to allocate 549755813888 bytes. Error code 12"
            ),
            1,
            "curl-rl: out of memory (asked for 549755813888 bytes): lower batch_size, or the sizes of networks\n",
        ),
        (FloatingPointError("critic_loss is nan"), 1, "curl-rl: critic_loss is nan\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_known_errors_become_one_line(monkeypatch, capsys, error, status, words):
    def fail(_):
        raise error

    monkeypatch.setattr(trainer, "train", fail)
    assert cli.main(["train", "task=toy/reach"]) == status
    assert capsys.readouterr().err.endswith(words)


def test_an_environment_says_itself_what_to_mend(monkeypatch, capsys):
    monkeypatch.setattr(trainer, "train", lambda _: envs.make_env("toy/reach", image_size=1))
    assert cli.main(["train", "task=toy/reach"]) == 1
    assert capsys.readouterr().err == "curl-rl: image_size must be at least 8, not 1\n"


def test_a_misuse_of_an_environment_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(trainer, "train", lambda _: envs.make_env("toy/reach").step(0))
    with pytest.raises(RuntimeError, match="call reset before step"):
        cli.main(["train", "task=toy/reach"])


def test_an_unknown_error_keeps_its_traceback(monkeypatch):
    def fail(_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(trainer, "train", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["train", "task=toy/reach"])


def test_evaluate_prints_episodes_and_their_mean(monkeypatch, capsys, tmp_path):
    seen = []

    def evaluate_run(*arguments, tell, **chosen):
        seen.append((*arguments, chosen))
        tell("checkpoint 50 of runs/x")
        return [Episode(0, 10.0, 20), Episode(1, 14.0, 18)]

    monkeypatch.setattr(playing, "evaluate_run", evaluate_run)
    video = tmp_path / "out.mp4"
    assert (
        cli.main(["evaluate", "runs/x", "--episodes", "2", "--video", str(video), "--seed", "4", "--device", "cpu"])
        == 0
    )
    chosen = {"checkpoint": "", "task": "", "distraction": None, "intensity": None}
    assert seen == [(Path("runs/x"), 2, video, 4, "cpu", chosen)]
    assert capsys.readouterr().out.splitlines() == [
        "checkpoint 50 of runs/x",
        "episode 0: return 10.0, 20 agent steps",
        "episode 1: return 14.0, 18 agent steps",
        "mean return 12.0, standard deviation 2.0, over 2 episodes",
    ]


def test_evaluate_takes_another_checkpoint_task_and_distraction(monkeypatch):
    seen = []
    monkeypatch.setattr(playing, "evaluate_run", lambda *_, **changed: seen.append(changed) or [Episode(0, 1.0, 2)])
    words = ["--checkpoint", "best", "--task", "dmc/x_y", "--distraction", "color", "--intensity", "hard"]
    assert cli.main(["evaluate", "runs/x", *words]) == 0
    assert seen == [dict(zip((word[2:] for word in words[::2]), words[1::2], strict=True)) | {"tell": print}]


def test_evaluate_takes_a_positive_number_of_episodes(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["evaluate", "runs/x", "--episodes", "0"])
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "runs/x", "--seed", "-1"])
    assert "'0' is not a whole number from 1 to 10000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "evaluate runs/x --episodes 1000000000",
            "--episodes: '1000000000' is not a whole number from 1 to 10000",
        ),
        ("evaluate runs/x --seed 9223372036854775808", "is not a whole number from 0 to 9223372036854775807"),
        (f"evaluate runs/x --seed {'9' * 5000}", "99...' is not a whole number from 0 to"),
        ("evaluate runs/x --device tpu", "argument --device: 'tpu' is none of auto, cpu, cuda, cuda:N"),
        ("benchmark dmc100k --seeds 100000000 --dry-run", "is not a whole number from 1 to 1000"),
        ("benchmark dmc100k --workers 100000", "is not a whole number from 1 to 10000"),
        ("benchmark dmc100k --per-gpu 1000", "is not a whole number from 1 to 100"),
        ("benchmark dmc100k --cpus 0", "is not a whole number from 1 to 1024"),
        ("evaluate ''", "argument RUN: the name is empty: give a path"),
        ("evaluate runs/x --video ''", "argument --video: the name is empty: give a path"),
        ("benchmark dmc100k --out ''", "argument --out: the name is empty: give a path"),
        ("report ''", "argument DIR: the name is empty: give a path"),
        ("report results --out ''", "argument --out: the name is empty: give a path"),
        ("report --compare a ''", "argument --compare: the name is empty: give a path"),
        ("export '' --out enc", "argument SOURCE: the name is empty: give a path"),
        ("export runs/x --out ''", "argument --out: the name is empty: give a path"),
    ],
    ids=lambda value: value[:60],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_read(arguments, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(shlex.split(arguments))
    assert words in capsys.readouterr().err


def test_a_missing_run_is_one_line(capsys, tmp_path):
    assert cli.main(["evaluate", str(tmp_path)]) == 1
    assert cli.main(["export", str(tmp_path), "--out", str(tmp_path / "enc")]) == 1
    assert capsys.readouterr().err.count(f"curl-rl: {tmp_path} is no run directory") == 2


def test_export_and_doctor_call_their_modules(monkeypatch, capsys):
    monkeypatch.setattr(export, "export_run", lambda run_dir, out: out / run_dir.name)
    monkeypatch.setattr(doctor, "main", lambda: 1)
    assert cli.main(["export", "runs/x", "--out", "enc"]) == 0
    assert capsys.readouterr().out == "wrote enc/x\n"
    assert cli.main(["doctor"]) == 1


def test_the_hydra_entry_composes_the_same_configuration():
    done = run(
        "scripts/train.py", "--cfg", "job", "task=toy/reach", "preset=quick", "objective=none", "agent.hidden_dim=9"
    )
    assert done.returncode == 0, done.stderr
    node = OmegaConf.create(done.stdout)
    expected = compose(["task=toy/reach", "objective=none", "agent.hidden_dim=9"])
    assert from_node(node) == expected


def test_the_hydra_entry_refuses_in_one_line():
    done = run("scripts/train.py", "task=toy/raech", "seed=1,2", "--multirun")
    assert done.returncode == 2
    assert done.stderr == "scripts/train.py: unknown task 'toy/raech'; did you mean toy/reach\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task=toy/reach", "seed=abc"], "seed must be a whole number, got abc"),
        (
            ["--multirun", "task=toy/reach", "objective=moco,mochi", "objective.queue=64,128"],
            "unknown key 'objective.queue'",
        ),
        (["--multirun", "task=toy/reach,toy/grid", "env=3"], "env=3: env is a group of settings"),
        (["--multirun", "task=toy/reach", "seed=1,a"], "seed must be a whole number, got a"),
    ],
)
def test_what_hydra_would_refuse_in_its_own_words_is_refused_before(arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        hydra_arguments(arguments)
    assert hydra_arguments(["--multirun", "objective=moco,mochi", "objective.queue_size=64,128", "seed=range(3)"])
    assert hydra_arguments(
        ["--multirun", "agent.learning_rate=interval(0,1)", "seed=range(1000000000)", "encoder=glob(*)"]
    )
