"""Tests of the Atari games: their frames against Gymnasium's, exact repetition, lanes, protocols and names."""

import dataclasses
import hashlib
import importlib.util
import json

import cv2
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from test_envs import words_printed_by

from curl_rl import envs
from curl_rl.envs import EnvError, RemoteEnv, atari
from curl_rl.envs.atari import PROTOCOLS, AtariEnv, Protocol
from curl_rl.run.seen import FrameStack

PLAIN = Protocol("plain", noop_max=0)
# The 26 of Kaiser et al. 2020 (SimPLe), table 1, in both spellings.
GAMES_26 = {
    "Alien": "alien",
    "Amidar": "amidar",
    "Assault": "assault",
    "Asterix": "asterix",
    "BankHeist": "bank_heist",
    "BattleZone": "battle_zone",
    "Boxing": "boxing",
    "Breakout": "breakout",
    "ChopperCommand": "chopper_command",
    "CrazyClimber": "crazy_climber",
    "DemonAttack": "demon_attack",
    "Freeway": "freeway",
    "Frostbite": "frostbite",
    "Gopher": "gopher",
    "Hero": "hero",
    "Jamesbond": "jamesbond",
    "Kangaroo": "kangaroo",
    "Krull": "krull",
    "KungFuMaster": "kung_fu_master",
    "MsPacman": "ms_pacman",
    "Pong": "pong",
    "PrivateEye": "private_eye",
    "Qbert": "qbert",
    "RoadRunner": "road_runner",
    "Seaquest": "seaquest",
    "UpNDown": "up_n_down",
}


def reference(game: str, **settings) -> gym.Env:
    """Return the game without sticky actions, a frame a step."""
    import ale_py

    gym.register_envs(ale_py)
    return gym.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0, **settings)


def play(env, seed: int, steps: int = 10_000) -> list[tuple]:
    """Play the game of a seed with random actions that follow from it; return each step's outcome, frames hashed."""
    frame, info = env.reset(seed=seed)
    rng, outcomes, ended = np.random.default_rng(seed), [(digest(frame), info)], False
    while not ended and len(outcomes) <= steps:
        frame, *rest = env.step(rng.integers(env.action_space.n))
        outcomes.append((digest(frame), *rest))
        ended = rest[1] or rest[2]
    return outcomes


def digest(frame: np.ndarray) -> str:
    assert frame.shape == (1, 84, 84)
    assert frame.dtype == np.uint8
    return hashlib.sha256(frame.tobytes()).hexdigest()[:16]


# The frames


@pytest.mark.parametrize("game", ["Breakout", "MsPacman", "Pong"])
def test_stacked_frames_rewards_and_ends_equal_gymnasiums(game):
    theirs = FrameStackObservation(AtariPreprocessing(reference(game), noop_max=0), 4, padding_type="zero")
    ours, stack, rng = AtariEnv(game, protocol=PLAIN), FrameStack(4, "zero"), np.random.default_rng(0)
    assert ours.action_space.n == theirs.action_space.n
    ended, ends, scored = True, 0, 0
    for _ in range(2000):
        if ended:
            expected, _ = theirs.reset(seed=1)
            stack.reset(ours.reset(seed=2)[0])
            assert np.array_equal(stack.observation(), expected)
        action = int(rng.integers(ours.action_space.n))
        expected, *rest, information = theirs.step(action)
        frame, *mine, info = ours.step(action)
        stack.push(frame)
        assert np.array_equal(stack.observation(), expected)
        assert (mine, info["lives"]) == (rest, information["lives"])
        ended = rest[1]
        ends, scored = ends + ended, scored + (rest[0] != 0)
    assert ends >= 1
    assert scored >= 10
    theirs.close()


@pytest.mark.parametrize("source", [(210, 160), (250, 160)])
def test_linear_resize_is_opencvs(source):
    resize, rng = atari.LinearResize(source, (84, 84)), np.random.default_rng(0)
    for _ in range(5):
        image = rng.integers(256, size=source, dtype=np.uint8)
        expected = cv2.resize(image, (84, 84), interpolation=cv2.INTER_LINEAR)
        assert np.abs(resize(image).astype(int) - expected).max() <= 1
    assert (resize(np.full(source, 255, np.uint8)) == 255).all()


@pytest.mark.parametrize("game", ["Breakout", "AirRaid"])  # the latter's screen is higher than most
def test_linear_frames_are_the_games_own_resized(game):
    theirs = reference(game, obs_type="grayscale")
    ours = AtariEnv(game, protocol=Protocol("raw", resize="linear", action_repeat=1, max_pool=False, noop_max=0))
    actions = np.random.default_rng(0).integers(ours.action_space.n, size=60)
    pairs = [(ours.reset(seed=0)[0], theirs.reset(seed=0)[0])]
    pairs += [(ours.step(action)[0], theirs.step(action)[0]) for action in actions]
    for frame, screen in pairs:
        expected = cv2.resize(screen, (84, 84), interpolation=cv2.INTER_LINEAR)
        assert frame.shape == (1, 84, 84)
        assert np.abs(frame[0].astype(int) - expected).max() <= 1
    area = cv2.resize(pairs[-1][1], (84, 84), interpolation=cv2.INTER_AREA)
    assert np.abs(pairs[-1][0][0].astype(int) - area).max() > 10
    theirs.close()


def test_render_shows_the_last_frame():
    env = AtariEnv("pong")
    with pytest.raises(RuntimeError, match="call reset before render"):
        env.render()
    frame, _ = env.reset(seed=0)
    assert np.array_equal(env.render(), np.stack([frame[0]] * 3, axis=2))
    frame, *_ = env.step(0)
    assert np.array_equal(env.render(), np.stack([frame[0]] * 3, axis=2))
    assert np.array_equal(env.render((168, 84))[::2], env.render())
    assert env.render((30, 40)).shape == (30, 40, 3)


# The game


def test_a_lost_life_is_told_and_the_game_goes_on():
    outcomes = play(AtariEnv("breakout"), seed=1)
    score = np.cumsum([reward for _, reward, *_ in outcomes[1:]])
    losses = [step for step, outcome in enumerate(outcomes[1:]) if outcome[4]["life_lost"]]
    lives = [info["lives"] for *_, info in outcomes]
    assert list(dict.fromkeys(lives)) == [5, 4, 3, 2, 1, 0]
    assert lives == sorted(lives, reverse=True)
    assert [lives[step + 1] for step in losses] == [4, 3, 2, 1]  # the fifth loss is the end
    assert [outcome[2:4] for outcome in outcomes[1:]] == [(False, False)] * (len(outcomes) - 2) + [(True, False)]
    assert not outcomes[-1][4]["life_lost"]
    assert 0 < score[losses[0]] < score[-1]
    plain = play(AtariEnv("breakout", protocol=dataclasses.replace(PROTOCOLS["atari100k"], life_loss=False)), seed=1)
    assert not any(outcome[-1]["life_lost"] for outcome in plain)
    assert [outcome[:-1] for outcome in plain] == [outcome[:-1] for outcome in outcomes]


@pytest.mark.parametrize(
    ("answers", "lost"),
    [
        ([(3, False), (1, False), (0, False), (0, True)], [True, True, False, False]),  # none left before the end
        ([(4, False), (3, False), (2, True)], [False, True, False]),  # over with some left
    ],
)
def test_only_a_life_lost_while_some_are_left_and_the_game_goes_on_counts(answers, lost):
    class Scripted:
        def send(self, actions):
            pass

        def recv(self):
            lives, over = next(script)
            return np.zeros((1, 1, 84, 84), np.uint8), np.zeros(1), np.array([over]), None, {"lives": np.array([lives])}

    env, script = AtariEnv("qbert"), iter(answers)
    env.reset(seed=0)
    env._vector = Scripted()
    assert [env.step(0)[4]["life_lost"] for _ in answers] == lost


def test_rewards_are_the_games_own():
    rewards = {outcome[1] for outcome in play(AtariEnv("ms_pacman"), seed=0, steps=100)[1:]}
    assert 10.0 in rewards
    assert all(type(reward) is float for reward in rewards)


@pytest.mark.parametrize("max_frames", [42, 44])
def test_truncation_keeps_the_true_last_frame_and_ends_the_episode(max_frames):
    short = AtariEnv("seaquest", protocol=Protocol("short", max_frames=max_frames))
    outcomes, longer = play(short, seed=0), play(AtariEnv("seaquest"), seed=0, steps=11)
    assert [outcome[2:4] for outcome in outcomes[1:]] == [(False, False)] * 10 + [(False, True)]
    assert [outcome[0] for outcome in outcomes] == [outcome[0] for outcome in longer]
    assert outcomes[-1][0] != outcomes[-2][0]
    with pytest.raises(RuntimeError, match="call reset before step"):
        short.step(0)
    short.reset(seed=0)
    assert short.step(0)[2:4] == (False, False)


def test_step_before_reset_is_refused():
    with pytest.raises(RuntimeError, match="call reset before step"):
        AtariEnv("pong").step(0)


# Exact repetition


# In freeway traffic moves in every frame; yars_revenge is already 7 frames old when it starts, double_dunk 13.
@pytest.mark.parametrize("game", ["freeway", "yars_revenge", "double_dunk"])
def test_games_start_after_one_to_noop_max_frames_by_their_seed(game):
    frame_by_frame = AtariEnv(game, protocol=Protocol("each", action_repeat=1, noop_max=0))
    after = [frame_by_frame.reset(seed=0)[0]] + [frame_by_frame.step(0)[0] for _ in range(4)]
    after = [digest(frame) for frame in after]
    assert len(set(after)) == 5
    env = AtariEnv(game, protocol=Protocol("few", noop_max=3))
    starts = [digest(env.reset(seed=seed)[0]) for seed in range(8)]
    assert {after.index(start) for start in starts} == {1, 2, 3}
    assert [digest(env.reset(seed=seed)[0]) for seed in range(8)] == starts


def test_most_noops_are_as_many_as_the_protocol_says(monkeypatch):
    draws = iter([0, 0, 30, 1])
    env = AtariEnv("breakout")
    seeds = []

    def reset(seed):
        seeds.append(int(seed[0]))
        return np.zeros((1, 1, 84, 84), np.uint8), {"episode_frame_number": [next(draws)], "lives": [5]}

    monkeypatch.setattr(env._vector, "reset", reset)
    env.reset(seed=7)
    env.reset(seed=8)
    assert len(seeds) == 4  # two draws of 0 were drawn again
    assert (seeds[0], seeds[3]) == (7, 8)
    assert len(set(seeds)) == 4


def some_episodes() -> list[str]:
    """Play episodes with no-ops and with sticky actions, on environments that have been used."""
    hashes = []
    for game, protocol in (("breakout", "atari100k"), ("asteroids", "sticky"), ("berzerk", "atari100k_linear")):
        env = AtariEnv(game, protocol=protocol)
        hashes += [hashlib.sha256(repr(play(env, seed, 60)).encode()).hexdigest() for seed in (0, 5, 0)]
    return hashes


def test_seed_and_actions_repeat_an_episode_bit_for_bit_in_any_process():
    here = some_episodes()
    assert here[0::3] == here[2::3]
    assert len(set(here)) == 6
    assert words_printed_by("from test_atari import some_episodes; print(*some_episodes())") == here


def test_unseeded_resets_follow_from_the_last_seed():
    env = AtariEnv("freeway", protocol="sticky")

    def episodes():
        env.reset(seed=3)
        starts = []
        for _ in range(2):
            env.reset()
            starts.append("".join(digest(env.step(1)[0]) for _ in range(30)))
        return starts

    first = episodes()
    assert first == episodes()
    assert first[0] != first[1]


# Lanes


@pytest.mark.parametrize(("game", "sticky"), [("breakout", 0.0), ("asterix", 0.25), ("ms_pacman", 0.0)])
def test_lanes_play_each_seed_as_a_single_environment_does(game, sticky):
    protocol = Protocol("lanes", sticky=sticky, noop_max=5, max_frames=880)
    seeds = [11, 3, 5, 8, 11, 2, 9]
    alone = AtariEnv(game, protocol=protocol)
    expected = [play(alone, seed) for seed in seeds]
    lanes = envs.make_lanes(f"atari/{game}", 3, 2, protocol=protocol)
    assert lanes[0].action_space == alone.action_space
    assert lanes[0].observation_space == alone.observation_space
    assert lanes[0].render_info == {}
    played, waiting, running = {}, list(enumerate(seeds)), {}

    def start(lane):
        index, seed = waiting.pop(0)
        frame, info = lane.reset(seed)
        played[index] = [(digest(frame), info)]
        running[lane] = index, np.random.default_rng(seed)

    for lane in lanes:
        start(lane)
    while running:
        for lane, (_, rng) in running.items():
            lane.send(rng.integers(lane.action_space.n))
        ended = []
        for lane in reversed(running):  # any order will do
            frame, *rest = lane.receive()
            played[running[lane][0]].append((digest(frame), *rest))
            assert np.array_equal(lane.render()[..., 0], frame[0])
            if rest[1] or rest[2]:
                ended.append(lane)
        for lane in ended:
            del running[lane]
            if waiting:
                start(lane)
    assert [played[index] for index in range(len(seeds))] == expected
    assert len({len(episode) for episode in expected}) > 1 or game == "ms_pacman"
    ways = {episode[-1][2:4] for episode in expected}
    assert ways == ({(False, True)} if game == "ms_pacman" else {(True, False), (False, True)})
    for lane in lanes * 2:
        lane.close()


def test_a_reset_drops_a_step_that_was_sent_and_closing_one_lane_leaves_others():
    one, other = envs.make_lanes("atari/pong", 2, 1)
    first = one.reset(4)[0]
    other.reset(5)
    other.send(1)
    one.send(1)  # waits: the other has the only turn
    with pytest.raises(RuntimeError, match="not received"):
        one.send(1)
    assert np.array_equal(one.reset(4)[0], first)
    other.close()
    one.send(0)
    one.receive()
    with pytest.raises(RuntimeError, match="no action was sent"):
        one.receive()


def test_lanes_step_in_turns_of_as_many_as_threads():
    class Game:
        def __init__(self, name):
            self.name = name

        def send(self, action):
            stepping.append(self.name)

        def receive(self):
            stepping.remove(self.name)

    stepping = []
    games = [Game(name) for name in "abcd"]
    turns = atari._Turns(2)
    for game in games:
        turns.send(game, 0)
    seen = ["".join(stepping)]
    for game in (games[3], games[0], games[1], games[2]):
        turns.receive(game)
        seen.append("".join(stepping))
    assert seen == ["ab", "ab", "bc", "c", ""]  # "d", asked for out of turn, did not wait for a turn


def test_an_atari_task_plays_in_a_process_of_its_own():
    with RemoteEnv("atari/RoadRunner", {"protocol": "sticky"}) as remote:
        local = AtariEnv("road_runner", protocol="sticky")
        assert np.array_equal(remote.reset(3)[0], local.reset(seed=3)[0])
        for action in (1, 2, 3):
            remote.send(action)
            theirs, ours = remote.receive(), local.step(action)
            assert np.array_equal(theirs[0], ours[0])
            assert theirs[1:] == ours[1:]


# Protocols


def test_protocols_are_the_papers():
    paper, linear, sticky = (PROTOCOLS[name] for name in ("atari100k", "atari100k_linear", "sticky"))
    assert (paper.sticky, paper.noop_max, paper.life_loss, paper.resize) == (0.0, 30, True, "area")
    assert (paper.action_repeat, paper.max_frames, paper.frame_stack, paper.padding) == (4, 108_000, 4, "zero")
    assert linear == dataclasses.replace(paper, name="atari100k_linear", resize="linear")
    assert (sticky.sticky, sticky.noop_max, sticky.life_loss, sticky.full_action_set) == (0.25, 0, False, False)


def test_a_protocols_hash_is_stable_and_changes_with_every_field():
    plain = envs.protocol("atari/pong", protocol="atari100k")
    assert plain["hash"] == "cbde2f1eadf2"
    assert plain == envs.protocol("atari/Breakout") == json.loads(json.dumps(plain))
    others = {
        "name": "other",
        "sticky": 0.1,
        "action_repeat": 3,
        "max_pool": False,
        "screen": 96,
        "resize": "linear",
        "frame_stack": 3,
        "padding": "repeat",
        "noop_max": 29,
        "life_loss": False,
        "reward_clip": 0.0,
        "max_frames": 100,
        "full_action_set": True,
    }
    assert [*others, "hash"] == list(plain)
    changed = [dataclasses.replace(PROTOCOLS["atari100k"], **{name: value}) for name, value in others.items()]
    assert len({plain["hash"], *(envs.protocol("atari/pong", protocol=each)["hash"] for each in changed)}) == 14


def test_protocols_of_the_other_suites_are_their_settings():
    plain = envs.protocol("dmc/cheetah_run", action_repeat=4)
    assert plain == {
        "name": "dmc",
        "obs": "pixels",
        "image_size": 100,
        "camera": 0,
        "action_repeat": 4,
        "time_limit": None,
        "hash": plain["hash"],
    }
    assert envs.protocol("dmc/cheetah_run")["hash"] != plain["hash"]
    toy = envs.protocol("toy/reach", obs="state")
    assert {**toy, "hash": ""} == {"name": "toy", "obs": "state", "image_size": 24, "hash": ""}
    with pytest.raises(TypeError, match=r"toy/reach takes obs, image_size.*not camera"):
        envs.protocol("toy/reach", camera=1)


@pytest.mark.parametrize("full", [False, True])
def test_the_action_set_is_the_protocols(full):
    env = AtariEnv("pong", protocol=Protocol("actions", full_action_set=full))
    assert env.action_space.n == (18 if full else 6)


# Names and bad input


def test_every_single_player_game_is_listed():
    import ale_py
    from ale_py.registration import rom_id_to_name

    gym.register_envs(ale_py)
    registered = {name.removeprefix("ALE/").removesuffix("-v5") for name in gym.registry if name.startswith("ALE/")}
    assert {rom_id_to_name(game) for game in atari.games()} == registered


def test_the_26_games_in_both_spellings():
    assert len(GAMES_26) == 26
    assert {f"atari/{game}" for game in GAMES_26.values()} <= set(envs.list_tasks())
    for spelling, game in GAMES_26.items():
        assert envs.canonical_task(f"atari/{spelling}") == envs.canonical_task(f"atari/{game}") == f"atari/{game}"
    assert envs.canonical_task("toy/reach") == "toy/reach"


def test_names_and_protocols_import_no_simulator():
    code = "import sys; from curl_rl import envs; envs.protocol('atari/MsPacman'); print(*sys.modules)"
    assert not {"ale_py", "torch"} & set(words_printed_by(code))


def test_without_ale_py_there_are_no_games(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    atari.games.cache_clear()
    try:
        assert not [task for task in envs.list_tasks() if task.startswith("atari/")]
        assert "toy/reach" in envs.list_tasks()
    finally:
        atari.games.cache_clear()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("atari/MsPackman", "nearest: atari/ms_pacman"),
        ("atari/combat", "unknown task"),  # for two players: ale-py would end this process
        ("MsPacman", "nearest: atari/ms_pacman"),
        ("atari/", "unknown task"),
    ],
)
def test_unknown_games_are_refused_with_the_nearest(task, message):
    for function in (envs.canonical_task, envs.make_env, envs.protocol):
        with pytest.raises(EnvError, match=message):
            function(task)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"obs": "state"}, "obs='pixels' only, not 'state'"),
        ({"image_size": 100}, "fixes image_size=84, not 100"),
        ({"protocol": "v5"}, "one of atari100k, atari100k_linear, sticky, not 'v5'"),
    ],
)
def test_bad_settings_are_refused(kwargs, message):
    with pytest.raises(EnvError, match=message):
        envs.make_env("atari/pong", **kwargs)
    with pytest.raises(EnvError, match=message):
        envs.make_lanes("atari/pong", 2, 1, **kwargs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resize": "cubic"}, "'area' or 'linear'"),
        ({"padding": "none"}, "'zero' or 'repeat'"),
        ({"sticky": 1.0}, "below 1"),
        ({"max_frames": 0}, "1 or more"),
        ({"noop_max": -1}, "noop_max 0"),
    ],
)
def test_bad_protocols_are_refused(fields, message):
    with pytest.raises(EnvError, match=message):
        Protocol("bad", **fields)


def test_bad_seeds_actions_and_lanes_are_refused():
    env = AtariEnv("pong")
    with pytest.raises(ValueError, match="seed must be 0 to"):
        env.reset(seed=2**31)
    env.reset(seed=2**31 - 1)
    for action in (6, -1, 0.5):
        with pytest.raises(ValueError, match="pong has actions 0 to 5"):
            env.step(action)
    env.step(np.array(5))
    with pytest.raises(ValueError, match="at least 1"):
        envs.make_lanes("atari/pong", 0, 1)
    assert envs.make_lanes("toy/reach", 2, 1) == []


def test_passes_gymnasiums_check():
    env = gym.make("curl_rl/atari_ms_pacman-v0", protocol="sticky")
    check_env(env.unwrapped)
    assert env.reset(seed=1)[0].shape == (1, 84, 84)
    assert env.metadata["render_fps"] == 15
    env.close()
