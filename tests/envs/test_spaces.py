"""Every space of Gymnasium is honoured or refused where an environment is made, and no episode goes on for ever."""

import numpy as np
import pytest
from gymnasium import spaces
from mirror import FRAMES, MOVES, Mirror, make_mirror, make_refused
from runs import SMALL, rows

from curl_rl.config.overrides import compose
from curl_rl.config.suites import SUITES
from curl_rl.envs import EnvError, LocalEnv, RemoteEnv, atari, dmc, remote, toy
from curl_rl.envs.spaces import CUT, AgentSpaces
from curl_rl.run.assembly import make_environment
from curl_rl.run.rollout import random_action
from curl_rl.run.trainer import train
from curl_rl.types import ConfigError


def sent(space: spaces.Space, action):
    env = Mirror(action_space=space)
    AgentSpaces(env).step(action)
    return env.actions[0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_actions_are_scaled_to_the_bounds_of_each_dimension(dtype):
    space = spaces.Box(np.array([-2, 0, 10], dtype), np.array([2, 1, 30], dtype), dtype=dtype)
    assert AgentSpaces(Mirror(action_space=space)).action_space == spaces.Box(-1, 1, (3,), np.float32)
    for action, wanted in [([-1, -1, -1], [-2, 0, 10]), ([0, 0, 0], [0, 0.5, 20]), ([1, 1, 1], [2, 1, 30])]:
        got = sent(space, np.array(action, np.float32))
        assert got.dtype == dtype
        assert got.tolist() == wanted
    assert sent(space, np.float32([0.5, 2, -3])).tolist() == [1, 1, 10]  # never past a bound


def test_the_bounds_are_met_exactly_and_wide_ones_do_not_overflow():
    for low, high in [(0.1, 0.3), (-1e308, 1e308), (-1.7, 1e-30)]:
        space = spaces.Box(low, high, (1,), np.float64)
        assert [sent(space, np.float32([end]))[0] for end in (-1, 1)] == [low, high]


def test_random_actions_reach_the_whole_of_a_box():
    env, rng = Mirror(action_space=spaces.Box(-2, 2, (1,), np.float32)), np.random.default_rng(0)
    adapted = AgentSpaces(env)
    for _ in range(300):
        adapted.step(random_action(adapted.action_space, rng))
    assert -2 <= min(env.actions) < -1.9
    assert 1.9 < max(env.actions) <= 2


def test_actions_of_any_shape_are_one_row_to_the_agent():
    space = spaces.Box(-1, 1, (2, 3), np.float32)
    assert AgentSpaces(Mirror(action_space=space)).action_space.shape == (6,)
    assert (
        sent(space, np.arange(6, dtype=np.float32) / 6).tolist()
        == (np.arange(6, dtype=np.float32) / 6).reshape(2, 3).tolist()
    )
    assert sent(spaces.Box(0, 4, (), np.float32), np.float32([0])).tolist() == 2


def test_an_action_that_fits_already_is_passed_on_as_it_is():
    action = np.float32([0.1, -0.7])
    assert sent(MOVES, action) is action


def test_discrete_actions_begin_at_the_environments_own_start():
    for start in (0, 1, -2):
        space = spaces.Discrete(3, start=start)
        assert AgentSpaces(Mirror(action_space=space)).action_space == spaces.Discrete(3)
        got = [sent(space, np.array(action)) for action in range(3)]
        assert got == [start, start + 1, start + 2]
        assert {type(each) for each in got} == {np.int64}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (2,), np.float32),
        spaces.Box(np.float32([-1, -np.inf]), np.float32([1, 1])),
        spaces.Box(np.float32([-1, 0.5]), np.float32([1, 0.5])),
        spaces.Box(0, 3, (2,), np.int64),
        spaces.Box(0, 255, (2,), np.uint8),
        spaces.Box(-1, 1, (0,), np.float32),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(4),
        spaces.Dict({"move": MOVES}),
        spaces.Tuple((MOVES, spaces.Discrete(2))),
        spaces.Text(3),
        spaces.Sequence(MOVES),
        spaces.Graph(MOVES, None),
        spaces.OneOf((MOVES, spaces.Discrete(2))),
    ],
    ids=str,
)
def test_other_action_spaces_are_refused_with_what_was_seen_and_what_is_needed(space):
    with pytest.raises(EnvError, match=r"^an agent here acts by one Discrete number, .*\.wrappers") as refusal:
        AgentSpaces(Mirror(action_space=space))
    assert str(space).splitlines()[0] in str(refusal.value)


@pytest.mark.parametrize("start", [0, 5])
def test_one_action_alone_is_refused(start):
    with pytest.raises(EnvError, match=r"Discrete.1.*, and one alone leaves nothing to choose: give two"):
        AgentSpaces(Mirror(action_space=spaces.Discrete(1, start=start)))


@pytest.mark.parametrize(
    ("shape", "seen", "turn"),
    [
        ((3, 8, 8), (3, 8, 8), lambda frame: frame),
        ((1, 8, 8), (1, 8, 8), lambda frame: frame),
        ((8, 8), (1, 8, 8), lambda frame: frame[None]),
        ((8, 8, 1), (1, 8, 8), lambda frame: frame.transpose(2, 0, 1)),
        ((8, 8, 3), (3, 8, 8), lambda frame: frame.transpose(2, 0, 1)),
    ],
)
def test_frames_are_turned_upright(shape, seen, turn):
    frame = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    env = AgentSpaces(Mirror(spaces.Box(0, 255, shape, np.uint8), observation=frame))
    assert env.observation_space == spaces.Box(0, 255, seen, np.uint8)
    got = env.reset(seed=0)[0]
    assert np.array_equal(got, turn(frame))
    assert got.flags.c_contiguous
    assert not np.shares_memory(got, frame)  # the environment may draw its next frame into the same array


def test_negative_strides_are_put_in_order():
    frame = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)[:, ::-1]
    got = AgentSpaces(Mirror(observation=frame)).step(np.float32([0, 0]))[0]
    assert np.array_equal(got, frame)
    assert got.strides == (64, 8, 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_states_become_float32(dtype):
    env = AgentSpaces(Mirror(spaces.Box(-1e4, np.inf, (4,), dtype)))
    state = env.reset(seed=0)[0]
    assert (state.dtype, state.tolist()) == (np.float32, [1, 1, 1, 1])
    assert env.observation_space == spaces.Box(-1e4, np.inf, (4,), np.float32)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 1, (3, 8, 8), np.float32),
        spaces.Box(0, 255, (5, 8, 8), np.uint8),
        spaces.Box(0, 255, (8, 9, 3), np.uint8),
        spaces.Box(0, 255, (8, 9), np.uint8),
        spaces.Box(0, 255, (2, 3, 8, 8), np.uint8),
        spaces.Box(0, 255, (3, 0, 0), np.uint8),
        spaces.Box(0, 255, (128,), np.uint8),
        spaces.Box(-1, 1, (2, 2), np.float32),
        spaces.Box(-1, 1, (), np.float32),
        spaces.Box(-1, 1, (0,), np.float32),
        spaces.Box(0, 9, (4,), np.int32),
        spaces.Discrete(5),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(4),
        spaces.Dict({"image": FRAMES}),
        spaces.Tuple((FRAMES, FRAMES)),
        spaces.Text(3),
        spaces.Box(0, 1, (3, 84, 84), np.uint8),  # nearly black, if it were taken for what its type says
    ],
    ids=str,
)
def test_other_observation_spaces_are_refused_with_what_was_seen_and_what_is_needed(space):
    with pytest.raises(EnvError, match=r"^an agent here sees square frames uint8 .*\.wrappers") as refusal:
        AgentSpaces(Mirror(observation_space=space))
    assert str(space).splitlines()[0] in str(refusal.value)


@pytest.mark.parametrize("observation", [np.zeros((3, 8, 8), np.float32), np.zeros((8, 8, 3), np.uint8)])
def test_an_observation_of_another_space_than_was_declared_is_refused(observation):
    with pytest.raises(EnvError, match=r"returned an observation .* and declares \(3, 8, 8\) uint8"):
        AgentSpaces(Mirror(observation=observation)).reset(seed=0)


@pytest.mark.parametrize("state", [[0, np.nan], [np.inf, 0], [1e300, 0]])
def test_a_state_that_is_not_finite_is_refused(state):
    env = AgentSpaces(Mirror(spaces.Box(-np.inf, np.inf, (2,), np.float64), observation=np.array(state)))
    with pytest.raises(EnvError, match="is not finite in float32"):
        env.reset(seed=0)


def test_a_reward_that_is_not_finite_is_refused(monkeypatch):
    monkeypatch.setattr(Mirror, "reward", np.float64(np.nan))
    with pytest.raises(EnvError, match="gave the reward nan"):
        AgentSpaces(Mirror()).step(np.float32([0, 0]))


def test_rewards_and_ends_are_plain_python():
    _, reward, terminated, truncated, _ = AgentSpaces(Mirror()).step(np.float32([0, 0]))
    assert [type(each) for each in (reward, terminated, truncated)] == [float, bool, bool]


def test_local_and_remote_environments_show_the_same_spaces():
    local = LocalEnv(make_mirror())
    with RemoteEnv(make_mirror) as env:
        assert (env.observation_space, env.action_space) == (local.observation_space, local.action_space)
        for each in (env, local):
            assert each.reset(0)[0].shape == (3, 8, 8)
            each.send(np.float32([1.0]))
            assert each.receive()[1] == 0.5


def test_a_refusal_comes_out_of_the_environments_process():
    with pytest.raises(EnvError, match="an agent here sees"):
        RemoteEnv(make_refused)


@pytest.mark.parametrize("where", ["local", "remote"])
def test_an_episode_without_an_end_is_cut_and_told_once(where, caplog):
    remote._tell_cut.cache_clear()
    env = (LocalEnv if where == "local" else RemoteEnv)(make_mirror, longest=3)
    ends = []
    for seed in range(2):
        env.reset(seed)
        for _ in range(3):
            env.send(np.float32([0.0]))
            *_, terminated, truncated, info = env.receive()
            ends.append((terminated, truncated, info.get(CUT)))
    env.close()
    assert ends == [(False, False, None), (False, False, None), (False, True, 3)] * 2
    (told,) = [record.getMessage() for record in caplog.records]
    assert "an episode did not end and was cut after 3 steps" in told


def test_an_end_of_its_own_at_the_last_moment_is_no_cut(caplog):
    env = LocalEnv("toy/reach", longest=toy.ReachEnv.length)
    env.reset(0)
    for _ in range(toy.ReachEnv.length):
        env.send(np.float32([0, 0]))
        *_, truncated, info = env.receive()
    assert truncated
    assert CUT not in info
    assert not caplog.records


def test_a_run_in_an_environment_without_an_end_is_trained_and_evaluated(tmp_path, monkeypatch, caplog):
    remote._tell_cut.cache_clear()
    monkeypatch.setattr(toy.ReachEnv, "length", 10**9)
    monkeypatch.setitem(SUITES, "toy", SUITES["toy"]._replace(longest_frames=30))
    settings = ("env.overlap=false", "budget_frames=110", "evaluation.video=false", f"run_dir={tmp_path}")
    assert train(compose([*SMALL, *settings])) == 0
    assert [row[5] for row in rows(tmp_path)] == ["30", "30"]  # agent steps of each episode
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("toy/reach: an episode did not end and was cut after 30 steps")


def test_the_linear_quadratic_tasks_end_as_all_others_of_their_suite():
    config = compose(["task=dmc/lqr_lqr_2_1", "preset=state", "env.overlap=false", "env.action_repeat=8"])
    env = make_environment(config)
    env.reset(0)
    for step in range(1, 126):
        env.send(np.zeros(env.action_space.shape, np.float32))
        *_, truncated, _ = env.receive()
        assert truncated == (step == 125)  # 1000 frames


def test_no_published_episode_is_longer_than_the_longest():
    """Of each domain one task: its time limit is the domain's."""
    worlds = {domain: dmc.DmcEnv(f"{domain}_{tasks[0]}", obs="state") for domain, tasks in dmc.DOMAINS.items()}
    limits = {domain: world._env._step_limit for domain, world in worlds.items()}
    assert {domain for domain, frames in limits.items() if frames != SUITES["dmc"].longest_frames} == {"lqr"}
    assert {protocol.max_frames for protocol in atari.PROTOCOLS.values()} == {SUITES["atari"].longest_frames}
    assert toy.ToyEnv.length < SUITES["toy"].longest_frames


def test_an_environment_that_shows_something_else_than_was_asked_for_is_refused(monkeypatch, tmp_path):
    small = toy.ReachEnv(image_size=16)
    monkeypatch.setitem(toy.TASKS, "reach", lambda **_: small)
    with pytest.raises(ConfigError, match=r"toy/reach gives observations \(3, 16, 16\) .* env.image_size=24"):
        train(compose(["task=toy/reach", "env.overlap=false", "env.image_size=24", f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run" / "config.json").exists()
