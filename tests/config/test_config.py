"""Configurations: what the presets compose to, and what is refused with which words."""

import dataclasses
import json
from dataclasses import dataclass

import pytest
import torch
from omegaconf import OmegaConf

from curl_rl import envs
from curl_rl.agents.rainbow import RainbowConfig
from curl_rl.config import suites
from curl_rl.config.difference import LOCAL, differing, told
from curl_rl.config.frozen import frozen, schema
from curl_rl.config.overrides import compose, config_dir, hydra_arguments, presets
from curl_rl.config.schema import Config, ReplayConfig
from curl_rl.envs import list_tasks
from curl_rl.nn.encoders.atari import CanonicalConfig, ImpalaConfig
from curl_rl.objectives import OBJECTIVES
from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import option
from curl_rl.replay.samplers import SAMPLERS
from curl_rl.run.device import prepare_torch
from curl_rl.run.memory import predict_bytes
from curl_rl.run.seeds import Purpose, derive_seed
from curl_rl.run.stored import check_resumable, configure, load_config, save_config
from curl_rl.types import ConfigError

TOY = "task=toy/reach"


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        compose(overrides)
    return str(error.value)


def test_the_paper_preset_is_the_published_table():
    config = compose(["preset=paper"])
    assert (config.batch_size, config.random_steps, config.replay.capacity) == (512, 1000, 12_500)
    assert (config.env.image_size, config.env.frame_stack, config.env.action_repeat) == (100, 3, 8)
    assert dataclasses.asdict(config.encoder) == {
        "name": "paper",
        "feature_dim": 50,
        "filters": 32,
        "depth": 4,
    }
    agent = config.agent
    assert (config.augmentation.name, config.augmentation.size) == ("crop", 84)
    assert (agent.hidden_dim, agent.discount) == (1024, 0.99)
    assert (agent.learning_rate, agent.alpha_learning_rate, agent.init_temperature) == (1e-3, 1e-4, 0.1)
    assert (agent.critic_tau, agent.encoder_tau, agent.actor_period, agent.target_period) == (0.01, 0.05, 2, 2)
    assert config.objective.name == "curl"


@pytest.mark.parametrize(
    ("task", "repeat", "rate"),
    [
        ("dmc/finger_spin", 2, 1e-3),
        ("dmc/cartpole_swingup", 8, 1e-3),
        ("dmc/reacher_easy", 4, 1e-3),
        ("dmc/cheetah_run", 4, 2e-4),
        ("dmc/walker_walk", 2, 1e-3),
        ("dmc/ball_in_cup_catch", 4, 1e-3),
        ("dmc/humanoid_walk", 4, 1e-3),
    ],
)
def test_repeats_and_learning_rates_of_the_papers(task, repeat, rate):
    assert (suites.action_repeat(task), suites.learning_rate(task)) == (repeat, rate)
    assert task in list_tasks()


def test_the_six_tasks_exist():
    assert len(set(suites.PLANET_SIX)) == 6
    assert set(suites.PLANET_SIX) <= set(list_tasks())


@pytest.mark.parametrize(
    ("able", "cuda", "device", "precision"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, False, "auto", "bf16"),
        ({"amx_bf16": True}, False, "cpu", "bf16"),
        ({"avx512_bf16": False, "avx2": True}, False, "auto", "float32"),
        ({"avx512_bf16": True}, True, "auto", "float32"),
        ({"avx512_bf16": True}, True, "cpu", "bf16"),
        ({"avx512_bf16": True}, True, "cuda:0", "float32"),
    ],
)
def test_the_precision_left_to_the_machine_is_made_explicit(monkeypatch, able, cuda, device, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    config = compose([f"device={device}", "agent.precision=auto"])
    assert config.agent.precision == precision
    assert compose([f"device={device}", "agent.precision=auto", "preset=state"]).agent.precision == "float32"
    assert compose([f"device={device}"]).agent.precision == "float32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # a resume on another machine
    assert Config.from_dict(config.to_dict()) == config


def test_what_is_left_to_the_task_is_made_explicit():
    config = compose(["task=dmc/cheetah_run", "preset=paper", "replay.capacity=0", "seed=7"])
    assert (config.agent.learning_rate, config.env.action_repeat) == (2e-4, 4)
    assert config.replay.capacity == config.budget_frames / 4
    assert config.run_dir == "runs/dmc_cheetah_run/paper-curl-seed7"
    given = compose(["task=dmc/cheetah_run", "env.action_repeat=2", "agent.learning_rate=0.5", "run_dir=x"])
    assert (given.agent.learning_rate, given.env.action_repeat, given.run_dir) == (0.5, 2, "x")


def test_no_memory_is_reserved_for_what_the_budget_cannot_fill():
    def capacity(*overrides: str) -> int:
        return compose(["task=dmc/cheetah_run", "random_steps=6", *overrides]).replay.capacity

    assert capacity("replay.capacity=100_000", "budget_frames=1001") == 251
    assert capacity("replay.capacity=250", "budget_frames=1001") == 250
    assert capacity("budget_frames=1001") == 251
    assert (
        capacity("budget_frames=32", "env.frame_stack=6", "agent.n_step=5") == 6 + 5
    )  # a first transition always fits


def test_every_preset_composes_and_records_its_name():
    first = {"dmc": "dmc/walker_walk", "toy": "toy/reach", "atari": "atari/pong", "gym": "gym/Pendulum-v1"}
    names = {suite: presets(suite) for suite in suites.SUITES}
    games = ["bbf", "der", "drq_eps", "efficient", "paper", "spr", "sr_spr"]
    own = ["quick", "rainbow", "rainbow_state", "state"]
    assert names == {"dmc": ["paper", "quick", "state"], "toy": ["quick", "rainbow"], "atari": games, "gym": own}
    for suite, task in first.items():
        for name in names[suite]:
            assert compose([f"task={task}", f"preset={name}"]).preset == name
    assert {path.stem for path in config_dir().glob("*.yaml")} == {"launch"}


def test_the_command_line_beats_the_preset():
    config = compose(
        ["preset=paper", "encoder=nature", "encoder.feature_dim=64", "augmentation.size=64", "objective=none"]
    )
    assert dataclasses.asdict(config.encoder) == {"name": "nature", "feature_dim": 64, "padded": False}
    assert (config.augmentation.size, config.agent.hidden_dim, config.objective.name) == (64, 1024, "none")


def test_what_a_preset_sets_for_its_own_choice_no_other_takes():
    atari = ["task=atari/breakout", "preset=bbf"]
    assert configure(atari).encoder.width == 4
    other = configure([*atari, "encoder=canonical", "objective=curl", "encoder.padded=true"])
    assert other.encoder == CanonicalConfig(padded=True)  # not BBF's stretch
    assert other.agent == configure(atari).agent
    assert configure([*atari, "encoder=impala", "encoder.width=1"]).encoder == dataclasses.replace(
        configure(atari).encoder, width=1
    )
    assert configure(["task=atari/breakout", "preset=efficient", "encoder='impala'"]).encoder == ImpalaConfig()


def test_what_a_preset_turned_on_can_be_turned_off_by_one_word():
    config = compose(["task=atari/pong", "preset=sr_spr", "agent.resets.every=0", "replay.sampler=uniform"])
    assert (config.agent.resets, config.replay.beta) == (RainbowConfig().resets, ReplayConfig().beta)
    assert compose(["task=atari/pong", "agent.anneal.updates=0"]).agent.anneal == RainbowConfig().anneal
    with pytest.raises(ConfigError, match=r"agent\.resets\.until=7 has no effect with agent\.resets\.every=0"):
        compose(["task=atari/pong", "preset=sr_spr", "agent.resets={every:0,until:7}"])


def test_states_have_a_preset_that_needs_no_pixels():
    config = compose(["preset=state"])
    assert (config.env.obs, config.env.frame_stack, config.encoder.name) == ("state", 1, "state")
    assert (config.objective.name, config.augmentation.name) == ("none", "none")


@pytest.mark.parametrize(
    ("task", "coefficient", "projection"),
    [
        ("atari/pong", 0.01, 128),
        ("atari/PrivateEye", 0.01, 128),
        ("atari/ms_pacman", 1.0, 128),
        ("dmc/walker_walk", 1.0, 0),
    ],
)
def test_null_stands_for_the_originals_value_for_the_task(task, coefficient, projection):
    objective = compose([f"task={task}"]).objective
    assert (objective.coefficient, objective.projection_dim) == (coefficient, projection)
    assert compose([f"task={task}", "objective.coefficient=0.5"]).objective.coefficient == 0.5
    assert compose([f"task={task}", "objective.coefficient=null"]).objective == objective


def test_an_objectives_own_null_is_its_own_business(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class ProbeConfig(ObjectiveConfig):
        name: str = "probe"
        temperature: float | None = None

    monkeypatch.setitem(OBJECTIVES, "probe", type("Probe", (Objective,), {"Config": ProbeConfig}))
    assert compose([TOY, "objective=probe"]).objective.temperature is None


@pytest.mark.parametrize("spelling", ["atari/ms_pacman", "atari/MsPacman"])
def test_games_are_named_in_either_case(spelling):
    assert compose([f"task={spelling}"]).task == "atari/ms_pacman"


def test_the_benchmark_has_26_games_that_exist():
    assert len(suites.ATARI_SCORES) == 26
    assert set(suites.ATARI_SCORES) <= set(envs.list_tasks())
    assert suites.ATARI_SCORES["atari/pong"] == (-20.7, 14.6)


def test_a_replay_of_100k_steps_of_atari_takes_less_than_720_mb():
    config = compose(["task=atari/pong"])
    slots = suites.replay_slots(config.task, config.replay.capacity, config.env.action_repeat)
    layout = {"obs_shape": (1, 84, 84), "obs_dtype": torch.uint8, "action_shape": (), "action_dtype": torch.int64}
    assert predict_bytes(slots, sampler=SAMPLERS[config.replay.sampler], **layout) < 720e6


def test_denormal_numbers_are_flushed_to_zero():
    prepare_torch(1)
    assert torch.tensor([1e-38]).mul(0.01).item() == 0.0


def test_configurations_are_frozen_all_the_way():
    config = compose([TOY])
    for part, name in ((config, "seed"), (config.env, "obs"), (config.agent, "name"), (config.objective, "name")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, 3)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("task=dmc/cheetah_rnu", ["unknown task 'dmc/cheetah_rnu'", "did you mean dmc/cheetah_run"]),
        ("task=walker_walk", ["did you mean dmc/walker_walk"]),
        ("task=doom/corridor", ["unknown task", "dmc/..., toy/..."]),
        ("preset=papr", ["unknown preset 'papr'", "paper, quick, state"]),
        ("task=toy/reach preset=paper", ["unknown preset 'paper'; there are quick"]),
        ("objective=curly", ["unknown objective 'curly'", "curl, deepcluster", "none"]),
        ("encoder=resnet", ["unknown encoder 'resnet'", "strided"]),
        ("agent=3", ["unknown agent '3'", "sac"]),
        ("image_size=84", ["unknown key 'image_size'", "did you mean env.image_size"]),
        ("agent.learning_rat=1", ["unknown key 'agent.learning_rat'", "agent.learning_rate"]),
        ("encoder.depth=3", ["encoder=strided has none, encoder=paper has"]),
        ("encoder.name=paper", ["choose with encoder=paper"]),
        ("preset/dmc=paper", ["unknown key 'preset/dmc'"]),
        ("seed=abc", ["seed must be a whole number, got abc"]),
        ("batch_size=1.5", ["batch_size must be a whole number, got 1.5"]),
        ("env.overlap=maybe", ["env.overlap must be true or false, got maybe"]),
        ("seed=null", ["seed must be a whole number, got null"]),
        ("env=3", ["env=3: env is a group of settings; set one of env.obs, env.image_size"]),
        ("run_dir=${nowhere}", ["nowhere"]),
        ("augmentation=crop", ["augmentation.size=84 does not fit in images of side 64"]),
        ("batch_size=0", ["batch_size must be at least 1 and at most 4096, got 0"]),
        ("budget_frames=-5", ["budget_frames must be at least 1"]),
        ("evaluation.episodes=0", ["evaluation.episodes must be at least 1"]),
        ("env.timeout=0", ["env.timeout must be above 0 and at most 86400, got 0"]),
        ("task=atari/pong env.protocol=foo", ["env.protocol must be one of atari100k", "not 'foo'"]),
        ("task=atari/pong env.frame_stack=3", ["env.frame_stack is always 4 in atari/pong, got 3"]),
        ("env.protocol=sticky", ["env.protocol is always '' in dmc/cartpole_swingup, got 'sticky'"]),
        (
            "task=atari/pong agent=sac",
            ["replay.sampler=prioritized has no effect with agent=sac", "choose agent=rainbow"],
        ),
        ("task=atari/pong augmentation.pad=84", ["augmentation.pad=84 leaves nothing of images of side 84"]),
        ("task=atari/pong agent.priority=td", ["agent.priority='td' is none of value, total"]),
        ("task=atari/pong agent.v_min=10", ["agent.v_min=10.0 must be below agent.v_max=10.0"]),
        ("task=atari/pong replay.beta=2", ["replay.beta must be at least 0 and at most 1, got 2.0"]),
        ("task=atari/pong replay.sampler=sorted", ["replay.sampler='sorted' is none of uniform, prioritized"]),
        ("task=atari/pong evaluation.epsilon=1.5", ["evaluation.epsilon must be at least 0 and at most 1, got 1.5"]),
        (
            "task=atari/pong objective.logit_scale=0",
            ["objective.logit_scale must be above 0 and"],
        ),
        ("task=atari/pongg", ["unknown task 'atari/pongg'", "atari/pong"]),
        ("env.obs=text", ["env.obs='text' is none of pixels, state"]),
        ("env.obs=state", ["preset=state"]),
        ("encoder=state", ["preset=state"]),
        ("agent.update=both", ["joint, sequential"]),
        ("random_steps=5 agent.n_step=5", ["random_steps=5", "agent.n_step + 1 = 6"]),
        ("env.action_repeat=1000 budget_frames=80", ["env.action_repeat=1000 exceeds budget_frames=80"]),
        ("env.action_repeat=1001", ["env.action_repeat must be at least 0 and at most 1000, got 1001"]),
        ("agent.n_step=12499", ["agent.n_step=12499 does not fit in the 12500 agent steps of budget_frames=100000"]),
        ("random_steps=12500", ["random_steps=12500 leaves nothing of the 12500 agent steps of budget_frames=100000"]),
        ("threads=1025", ["threads must be at least 0 and at most 1024, got 1025"]),
        ("env.image_size=2147483648", ["env.image_size must be at least 1 and at most 1024, got 2147483648"]),
        ("replay.sampler=prioritized", ["no effect with agent=sac", "replay.sampler=uniform, or choose agent=rainbow"]),
        ("replay.exponent=0.7", ["replay.exponent=0.7 has no effect with replay.sampler=uniform: set replay.sampler"]),
        ("replay.beta=0.7", ["replay.beta=0.7 has no effect with replay.sampler=uniform"]),
        (
            "task=atari/pong preset=paper replay.sampler=uniform agent.priority=total",
            ["agent.priority=total has no effect with replay.sampler=uniform"],
        ),
        (
            "env.overlap=false env.timeout=5",
            ["env.timeout=5.0 has no effect with env.overlap=false: set env"],
        ),
        ("agent.capture=true device=cpu", ["agent.capture=true", "on the CPU here: set agent.capture=false"]),
        ("preset=state agent.precision=bf16", ["agent.precision=bf16 has no effect with env.obs=state"]),
        ("augmentation=none agent.averaging.m=2", ["agent.averaging.m=2 would average over copies"]),
        ("augmentation=none agent.averaging.k=3", ["agent.averaging.k=3 would average over copies"]),
        ("objective=byol objective.use_momentum=false objective.projection_tau=0.1", ["objective.use_momentum=false"]),
        (
            "objective.projection_hidden=64",
            ["no effect with objective.projection_dim=0: raise objective"],
        ),
        ("objective=supcon objective.bins=3", ["objective.bins=3 has no effect with objective.labels=episode"]),
        ("objective=pixel_contrast objective.negatives=9", ["no effect with objective.labels=segmentation"]),
        (
            "task=atari/pong augmentation=color_jitter augmentation.hue=0.1",
            ["augmentation.saturation and augmentation.hue have no effect on grey images"],
        ),
        ("run_dir='a\udcff'", [r"run_dir='a\udcff' holds what is no text: give another name"]),
        ("run_dir='a\x1b'", [r"run_dir='a\x1b' holds what is no text"]),
        ("run_dir=http://x/y", ["run_dir=http://x/y is a URL, and a run lives in a folder: give a path"]),
        ("agent.learning_rate=-1e-3", ["agent.learning_rate must be at least 0 and at most 1000000.0, got -0.001"]),
        ("agent.learning_rate=nan", ["agent.learning_rate must be at least 0", "got nan"]),
        ("agent.alpha_learning_rate=-1", ["agent.alpha_learning_rate must be at least 0"]),
        ("augmentation.pad=-1", ["augmentation.pad must be at least 0 and at most 65536, got -1"]),
        ("agent.init_temperature=0", ["agent.init_temperature must be above 0 and at most 1000000.0, got 0.0"]),
        ("agent.log_std_min=2", ["agent.log_std_min=2.0 must be below agent.log_std_max=2.0"]),
        ("agent.critic_tau=0", ["agent.critic_tau must be above 0 and at most 1, got 0.0"]),
        ("agent.encoder_tau=1.5", ["agent.encoder_tau must be above 0 and at most 1, got 1.5"]),
        ("agent.hidden_dim=65537", ["agent.hidden_dim must be at least 1 and at most 65536, got 65537"]),
        ("seed=9223372036854775808", ["seed must be at least 0 and at most 9223372036854775807"]),
        ("objective.coefficient=-1", ["objective.coefficient must be at least 0 and at most 1000000.0, got -1.0"]),
        ("objective.coefficient=inf", ["objective.coefficient must be at least 0", "got inf"]),
        (
            "objective=spr objective.steps=500 replay.capacity=500",
            ["looks 500 steps ahead, and the replay keeps 500", "objective.steps"],
        ),
        (
            "task=toy/grid preset=rainbow objective=none augmentation=cutout",
            ["would augment nothing", "agent.averaging.k=1 agent.averaging.m=1"],
        ),
        (
            "task=toy/reach objective=wmse objective.projection_dim=64",
            ["raise batch_size to 65", "objective.projection_dim"],
        ),
        ("batch_size=1", ["it needs batch_size=2 or more, got 1"]),
        (
            "task=atari/pong objective=pixel_contrast objective.labels=segmentation",
            ["objective=pixel_contrast needs labels, which atari/pong has not: choose another objective.labels, or "],
        ),
        (
            "objective=supcon objective.labels=class",
            ["objective=supcon needs classes, which dmc/cartpole_swingup has not"],
        ),
        ("objective=deepcluster agent.capture=true", ["works between updates too: set agent.capture=false"]),
        ("objective=none objective.coefficient=1", ["objective.coefficient=1.0", "there is no loss to weigh"]),
        ("encoder=paper encoder.depth=0", ["encoder.depth must be at least 1 and at most 100, got 0"]),
        ("encoder=strided encoder.filters=0", ["encoder.filters must be at least 1 and at most 65536, got 0"]),
        ("encoder=nature encoder.feature_dim=-2", ["encoder.feature_dim must be at least 1 and at most 65536, got -2"]),
        ("encoder=impala encoder.width=0", ["encoder.width must be at least 1 and at most 1000, got 0"]),
        ("device=gpu", ["device='gpu' is none of auto, cpu, cuda, cuda:N"]),
        ("replay.device=disk", ["replay.device='disk'"]),
        ("task=toy/reach env.action_repeat=2", ["env.action_repeat is always 1 in toy/reach, got 2"]),
        ("seed=1,2", ["one run takes one value", "--multirun"]),
        ("+a=1", ["cannot read '+a=1'", "key=value"]),
        ("~seed", ["cannot read '~seed'"]),
        ("seed", ["cannot read 'seed'", "key=value"]),
        ("run_dir=a=b", ["cannot read 'run_dir=a=b'", "quote"]),
    ],
)
def test_mistakes_are_explained_in_one_line(overrides, words):
    message = refusal(*overrides.split())
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert "HYDRA" not in message.upper()


def test_the_limits_themselves_are_allowed():
    config = compose(
        [
            *(TOY, "seed=9223372036854775807", "random_steps=6", "agent.n_step=5", "objective.coefficient=0"),
            *("augmentation.pad=0", "agent.critic_tau=1", "encoder.filters=1", "encoder.feature_dim=1"),
        ]
    )
    torch.manual_seed(config.seed)
    assert torch.initial_seed() == config.seed
    assert derive_seed(config.seed, Purpose.LOOP) != derive_seed(config.seed - 1, Purpose.LOOP)


def test_a_new_objective_is_an_option_without_a_file(monkeypatch):
    @dataclass(frozen=True)
    class GuessConfig(ObjectiveConfig):
        name: str = "guess"
        scales: tuple[int, ...] = option((1, 2), "a field that is a tuple")

    class Guess:
        Config = GuessConfig

    monkeypatch.setitem(OBJECTIVES, "guess", Guess)
    config = compose([TOY, "objective=guess", "objective.scales=[3,4]", "objective.coefficient=2"])
    assert config.objective == GuessConfig(coefficient=2.0, scales=(3, 4))
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert "objective.scales" in refusal(TOY, "objective=guess", "objective.scales=[a]")


def test_a_schema_refuses_what_its_dataclass_does_not_have():
    @dataclass(frozen=True)
    class Leaf:
        size: int = 1

    @dataclass(frozen=True)
    class Tree:
        leaf: Leaf = dataclasses.field(default_factory=Leaf)
        rates: tuple[float, ...] = (0.5,)

    node = OmegaConf.merge(OmegaConf.structured(schema(Tree)), {"leaf": {"size": 3}})
    data = OmegaConf.to_container(node)
    assert data == {"leaf": {"size": 3}, "rates": [0.5]}
    assert frozen(Tree, data) == Tree(Leaf(3), (0.5,))
    with pytest.raises(ConfigError, match=r"Leaf has the fields size, got width"):
        frozen(Tree, {"leaf": {"width": 3}, "rates": []})


def test_a_nested_dataclass_keeps_the_values_that_its_field_makes():
    @dataclass(frozen=True)
    class Leaf:
        size: int = 1
        sides: tuple[int, ...] = (1,)

    @dataclass(frozen=True)
    class Branch:
        leaf: Leaf = dataclasses.field(default_factory=lambda: Leaf(2))

    @dataclass(frozen=True)
    class Tree:
        leaf: Leaf = dataclasses.field(default_factory=lambda: Leaf(3, (4, 5)))
        branch: Branch = dataclasses.field(default_factory=lambda: Branch(Leaf(6)))
        other: Branch = dataclasses.field(default_factory=Branch)

    node = OmegaConf.merge(OmegaConf.structured(schema(Tree)), {"leaf": {"size": 7}, "other": {"leaf": {"sides": [8]}}})
    assert frozen(Tree, OmegaConf.to_container(node)) == Tree(Leaf(7, (4, 5)), Branch(Leaf(6)), Branch(Leaf(2, (8,))))
    assert frozen(Tree, OmegaConf.to_container(OmegaConf.structured(schema(Tree)))) == Tree()


def test_dictionaries_go_there_and_back():
    for overrides in ([], ["preset=paper"], ["preset=state"], [TOY]):
        config = compose(overrides)
        assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_dictionary_with_a_wrong_name_or_type_is_refused():
    data = compose([TOY]).to_dict()
    for change, words in (
        ({"seeds": 1}, "seeds"),
        ({"seed": "x"}, "seed: "),
        ({"encoder": {"name": "gone"}}, "unknown encoder 'gone'"),
        ({"agent": {**data["agent"], "width": 1}}, "width"),
    ):
        with pytest.raises(ConfigError, match=words):
            Config.from_dict({**data, **change})


@pytest.mark.parametrize(
    "overrides", ["preset=der augmentation=shift", "preset=drq_eps agent.averaging.k=0 agent.averaging.m=0"]
)
def test_a_brightness_that_nothing_would_see_is_refused(overrides):
    message = refusal("task=atari/pong", *overrides.split(), "augmentation.intensity=0.1")
    assert message.startswith("augmentation=shift would augment nothing: objective=none has no views")


def test_difference_names_what_changes_results_and_nothing_else():
    old = compose([TOY, "run_dir=a"])
    new = compose([TOY, "run_dir=b", "device=cpu", "threads=2", "replay.device=cpu", "seed=2", "encoder=impala"])
    assert differing(old.to_dict(), old.to_dict()) == {}
    assert told(differing(old.to_dict(), new.to_dict(), ignored=LOCAL)) == [
        "seed: 1 -> 2",
        "encoder.name: small -> impala",
        "encoder.feature_dim: 50 -> 256",
        "encoder.filters: 16 -> absent",
        "encoder.width: absent -> 1",
        "encoder.stretch: absent -> False",
    ]


def test_a_run_directory_alone_means_its_stored_configuration(tmp_path):
    started = compose([TOY, "seed=5", "agent.hidden_dim=8", f"run_dir={tmp_path}"])
    save_config(started, tmp_path)
    assert configure([f"run_dir={tmp_path}"]) == started
    moved = configure([f"run_dir={tmp_path}", "device=cpu", "threads=3"])
    assert moved == dataclasses.replace(started, device="cpu", threads=3)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_more_overrides_are_of_the_stored_configuration(tmp_path):
    overrides = [TOY, "seed=5", f"run_dir={tmp_path}"]
    save_config(compose(overrides), tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "manifest-1").touch()
    before = (tmp_path / "config.json").read_bytes()
    assert configure(overrides) == load_config(tmp_path)
    with pytest.raises(ConfigError) as error:
        configure([TOY, "seed=6", f"run_dir={tmp_path}"])
    assert "another configuration:\n  seed: 5 -> 6\n" in str(error.value)
    with pytest.raises(ConfigError, match="task: toy/reach -> dmc/cartpole_swingup"):
        configure(["task=dmc/cartpole_swingup", "seed=5", f"run_dir={tmp_path}"])
    assert configure(["seed=5", f"run_dir={tmp_path}"]) == load_config(tmp_path)
    more = configure(["agent.learning_rate=0.5", f"run_dir={tmp_path}"])
    assert more == dataclasses.replace(
        load_config(tmp_path), agent=dataclasses.replace(load_config(tmp_path).agent, learning_rate=0.5)
    )
    with pytest.raises(ConfigError, match="device='gpu'"):
        configure([f"run_dir={tmp_path}", "device=gpu"])
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_new_run_directory_starts_a_run(tmp_path):
    config = configure([TOY, f"run_dir={tmp_path / 'new'}"])
    check_resumable(config)
    assert (config.task, config.run_dir) == ("toy/reach", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_moved_run_knows_where_it_lies(tmp_path):
    save_config(compose([TOY, "run_dir=elsewhere"]), tmp_path)
    assert load_config(tmp_path).run_dir == str(tmp_path)


@pytest.mark.parametrize("text", ["{", '{"task": "toy/reach"}', "[]"])
def test_a_broken_stored_configuration_says_which_file(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        configure([f"run_dir={tmp_path}"])


def test_a_directory_without_a_run_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run directory"):
        load_config(tmp_path)


def test_replay_slots_hold_the_transitions():
    for task, transitions, repeat in (
        ("dmc/cheetah_run", 100_000, 4),
        ("toy/reach", 317, 1),
        ("dmc/walker_walk", 1, 2),
    ):
        episode = suites.SUITES[suites.suite_of(task)].episode_frames // repeat
        slots = suites.replay_slots(task, transitions, repeat)
        assert slots >= transitions + -(-transitions // episode)
        assert slots <= transitions * (1 + 1 / episode) + 2


def test_hydra_arguments_keep_sweeps_and_flags():
    suite, arguments = hydra_arguments(
        [
            "--multirun",
            "task=toy/reach,toy/grid",
            "preset=quick",
            "seed=range(3)",
            "hydra/launcher=basic",
            "--cfg",
            "job",
        ]
    )
    assert suite == "toy"
    assert sorted(text for text in arguments if "override_dirname" not in text) == sorted(
        [
            "--multirun",
            "task=toy/reach,toy/grid",
            "preset/toy=quick",
            "seed=range(3)",
            "hydra/launcher=basic",
            "--cfg",
            "job",
        ]
    )
    with pytest.raises(ConfigError, match="cannot share a sweep"):
        hydra_arguments(["task=toy/reach,dmc/walker_walk"])
    with pytest.raises(ConfigError, match="unknown objective 'curly'"):
        hydra_arguments(["objective=curl,curly"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("agent=[a]", "agent=[a]: agent is one name; curl-rl train --help lists them"),
        ("task={a:1}", "task={a:1}: task is one name; curl-rl train --help lists them"),
        ("preset=", "preset=: preset is one name; curl-rl train --help lists them"),
        ("replay=null", "replay=null: replay is a group of settings; set one of replay.capacity, "),
        ("agent.averaging=[1,2]", "agent.averaging=[1,2]: agent.averaging is a group of settings; set one"),
        (
            "env={image_sise:64}",
            "env={image_sise:64}: env is a group of settings; set one of env.obs, ",
        ),
        ("env={image_size:[64]}", "env.image_size must be a whole number, got [64]"),
        ("seed=[1]", "seed must be a whole number, got [1]"),
        ("seed={a:1}", "seed must be a whole number, got {a:1}"),
        ("seed=", "seed must be a whole number, got nothing"),
        ("seed=true", "seed must be a whole number, got true"),
        ("seed=???", "seed must be a whole number, got ???"),
        ("env.overlap=3", "env.overlap must be true or false, got 3"),
        ("env.obs=[pixels]", "env.obs must be a word, got [pixels]"),
        ("run_dir=null", "run_dir must be a word, got null"),
        ("objective=pcl objective.clusters=3", "objective.clusters must be a list of numbers such as [1,2], got 3"),
        (
            "objective=pcl objective.clusters=[[1]]",
            "objective.clusters must be a list of numbers such as [1,2], got",
        ),
        ("objective=curl objective.projection_dim=a", "objective.projection_dim must be a whole number or null, got a"),
        (f"agent.learning_rate={'9' * 400}", "agent.learning_rate must be a number, got 99999"),
        (f"seed={'9' * 5000}", "cannot read 'seed=99999"),
        (f"seed={'[' * 3000}", "cannot read 'seed=[[["),
        (f"task=toy/{'x' * 5000}", "unknown task 'toy/xxx"),
        ("seed=\u202e1", "cannot read 'seed=\\u202e1'"),
    ],
    ids=lambda value: value[:40],
)
def test_a_value_of_another_kind_is_refused_with_its_key_and_what_is_wanted(overrides, message):
    refused = refusal(TOY, *overrides.split()) if "task" not in overrides else refusal(overrides)
    assert refused.startswith(message)
    assert len(refused) < 300


def test_a_value_of_another_kind_is_refused_on_the_way_to_a_stored_run(tmp_path):
    save_config(compose([TOY, f"run_dir={tmp_path}"]), tmp_path)
    with pytest.raises(ConfigError, match=r"^threads must be a whole number, got \[1\]$"):
        configure([f"run_dir={tmp_path}", "threads=[1]"])


@pytest.mark.parametrize("overrides", ["agent.hidden_dim=${seed}", "env={image_size:30}", "seed='12'", "env.overlap=0"])
def test_what_can_be_read_is_read(overrides):
    config = compose([TOY, "encoder.filters=2", "seed=12", overrides])
    assert (config.seed, config.env.overlap) == (12, False)
