"""Tests of the environments: toy tasks, the DeepMind Control Suite, their registration and the choice of OpenGL."""

import contextlib
import gc
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from places import ROOT

from curl_rl import envs
from curl_rl.envs import EnvError, dmc, gl, toy

# Tasks that differ in what they draw: states only, model fields, the whole model at load (lqr), terrain (quadruped).
RANDOMISED = (
    "finger_turn_hard",
    "reacher_hard",
    "ball_in_cup_catch",
    "humanoid_stand",
    "point_mass_hard",
    "manipulator_insert_peg",
    "lqr_lqr_2_1",
    "quadruped_escape",
)


def words_printed_by(code: str) -> list[str]:
    """Run code in a fresh process."""
    folders = (ROOT, ROOT / "tests", Path(__file__).parent)
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def actions_for(env: gym.Env, steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)


# Names and registration


def test_task_list_is_the_suites():
    gl.choose(required=False)
    from dm_control import suite

    assert tuple(dmc.TASKS.values()) == suite.ALL_TASKS
    assert dmc.TASKS["ball_in_cup_catch"] == ("ball_in_cup", "catch")
    assert dmc.TASKS["humanoid_CMU_run"] == ("humanoid_CMU", "run")


def test_every_task_is_registered_with_gymnasium():
    ids = {f"curl_rl/{task.replace('/', '_')}-v0" for task in envs.list_tasks()}
    assert ids <= set(gym.registry)
    assert {"curl_rl/dmc_cartpole_swingup-v0", "curl_rl/toy_reach-v0"} <= ids
    with gym.make("curl_rl/toy_reach-v0", image_size=16) as env:
        assert env.observation_space.shape == (3, 16, 16)


def test_importing_envs_imports_no_simulator_and_nothing_else_of_curl_rl():
    modules = words_printed_by("import sys; from curl_rl import envs; envs.list_tasks(); print(*sys.modules)")
    assert "gymnasium" in modules
    assert not {name.partition(".")[0] for name in modules} & {"dm_control", "mujoco", "OpenGL", "torch", "envs"}
    assert {name for name in modules if name.startswith("curl_rl.") and not name.startswith("curl_rl.envs")} == set()


@pytest.mark.parametrize(
    ("task", "meant"),
    [
        ("dmc/cartpole_swingupp", "dmc/cartpole_swingup"),
        ("cartpole-swingup", "dmc/cartpole_swingup"),
        ("dmc/ball-in-cup-catch", "dmc/ball_in_cup_catch"),
        ("dmc/humanoid_cmu_walk", "dmc/humanoid_CMU_walk"),
        ("reach", "toy/reach"),
    ],
)
def test_unknown_task_names_the_nearest(task, meant):
    with pytest.raises(EnvError, match="unknown task") as error:
        envs.make_env(task)
    assert meant in str(error.value)


def test_unknown_task_that_resembles_none():
    with pytest.raises(EnvError, match="list_tasks") as error:
        envs.make_env("zzzz")
    assert "nearest" not in str(error.value)


# Gymnasium's own checker


@pytest.mark.filterwarnings("ignore:.*A Box observation space (minimum|maximum) value is:UserWarning")
@pytest.mark.parametrize("obs", ["pixels", "state"])
@pytest.mark.parametrize("name", ["toy_reach", "toy_grid", pytest.param("dmc_cartpole_swingup", marks=pytest.mark.gl)])
def test_passes_gymnasiums_check(name, obs):
    env = gym.make(f"curl_rl/{name}-v0", obs=obs, image_size=24)
    check_env(env.unwrapped)
    observation, _ = env.reset(seed=1)
    if obs == "pixels":
        assert observation.shape == (3, 24, 24)
        assert observation.dtype == np.uint8
        assert np.array_equal(observation, env.render().transpose(2, 0, 1))
    else:
        assert observation.ndim == 1
        assert observation.dtype == np.float32
    env.close()


# Toy tasks


def test_reach_rewards_nearness_and_truncates():
    env = toy.ReachEnv(obs="state")
    state, _ = env.reset(seed=3)
    rewards = []
    for step in range(1, 21):
        action = (state[2:] - state[:2]) / env.speed
        before = state
        state, reward, terminated, truncated, _ = env.step(action)
        assert np.allclose(state[:2], before[:2] + env.speed * np.clip(action, -1, 1), atol=1e-6)
        assert reward == pytest.approx(max(0, 1 - np.linalg.norm(state[:2] - state[2:])), abs=1e-6)
        assert (terminated, truncated) == (False, step == 20)
        rewards.append(reward)
    assert rewards[-1] > 0.999
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.zeros(2))


def test_reach_tells_a_good_policy_from_a_random_one():
    env, rng = toy.ReachEnv(obs="state"), np.random.default_rng(0)

    def mean_return(policy):
        total = 0.0
        for seed in range(20):
            state, _ = env.reset(seed=seed)
            for _ in range(env.length):
                state, reward, *_ = env.step(policy(state))
                total += reward
        return total / 20

    assert mean_return(lambda state: (state[2:] - state[:2]) * 4) > 16
    assert mean_return(lambda _: rng.uniform(-1, 1, 2)) < 8


def test_toy_frames_show_the_state_to_less_than_a_pixel():
    env = toy.ReachEnv(image_size=24)
    frame, _ = env.reset(seed=0)
    env._point, env._target = np.array([-1.0, -1.0]), np.array([1.0, 1.0])
    image = env.render()
    assert (image[:6, :6].reshape(-1, 3).max(0) == (255, 64, 64)).all()
    assert (image[-6:, -6:].reshape(-1, 3).max(0) == (64, 255, 64)).all()
    moved = env.step(np.array([0.1, 0.0]))[0]  # 0.3 of a pixel
    assert not np.array_equal(moved, image.transpose(2, 0, 1))
    assert frame.shape == (3, 24, 24)
    assert env.render((48, 40)).shape == (48, 40, 3)


def test_grid_terminates_on_its_target_and_truncates_elsewhere():
    env = toy.GridEnv(obs="state")
    env.reset(seed=0)
    env._start_at(0, 7)  # (column, row): from (0, 0) to (2, 1)
    outcomes = [env.step(action)[1:4] for action in (0, 1, 2, 1)]  # up, against the wall; right, down, right
    assert outcomes == [(0.0, False, False)] * 3 + [(1.0, True, False)]
    env.reset(seed=0)
    env._start_at(0, 24)
    outcomes = [env.step(3)[1:4] for _ in range(20)]
    assert outcomes == [(0.0, False, False)] * 19 + [(0.0, False, True)]


@pytest.mark.parametrize("name", ["reach", "grid"])
def test_toy_episode_follows_from_its_seed_alone(name):
    def play(env, seed):
        env.action_space.seed(seed)
        frames = [env.reset(seed=seed)[0]]
        frames += [env.step(env.action_space.sample())[0] for _ in range(3)]
        return np.stack(frames)

    used, fresh = envs.make_env(f"toy/{name}"), envs.make_env(f"toy/{name}")
    play(used, 1)
    assert np.array_equal(play(used, 7), play(fresh, 7))
    assert not np.array_equal(play(used, 7), play(fresh, 8))


@pytest.mark.parametrize("kwargs", [{"obs": "pixel"}, {"image_size": 2}])
def test_toy_refuses_bad_settings(kwargs):
    with pytest.raises(EnvError, match=next(iter(kwargs))):
        toy.ReachEnv(**kwargs)


# DeepMind Control: the episode


@pytest.mark.parametrize("name", RANDOMISED)
def test_seeded_reset_equals_a_fresh_load_whatever_ran_before(name):
    env = envs.make_env(f"dmc/{name}", obs="state").unwrapped
    actions = actions_for(env, 60)
    env.reset(seed=11)
    for action in actions[::-1]:
        env.step(action)
    env.reset()
    env.step(actions[0])
    from dm_control import suite

    for seed in (5, 6):
        fresh = suite.load(*dmc.TASKS[name], task_kwargs={"random": seed})
        fresh.physics._make_rendering_contexts = lambda: None  # quadruped_escape would ask for OpenGL
        expected, (observation, _) = fresh.reset(), env.reset(seed=seed)
        for action in actions:
            assert np.array_equal(observation, flatten(expected.observation))
            assert np.array_equal(everything(env._env.physics), everything(fresh.physics))
            expected = fresh.step(env._middle + env._half * np.float64(action))
            observation, reward, *_ = env.step(action)
            assert reward == expected.reward


def flatten(observation) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in observation.values()]).astype(np.float32)


def everything(physics) -> np.ndarray:
    """Return all that decides how the simulation goes on, the solver's warm start included."""
    import mujoco

    return physics.get_state(mujoco.mjtState.mjSTATE_INTEGRATION)


def whole_episodes(*, after_others: bool) -> list[str]:
    """Hash an episode's frames and rewards, for two tasks."""
    hashes = []
    for name in ("cartpole_swingup", "finger_turn_hard"):
        env = envs.make_env(f"dmc/{name}", image_size=24, action_repeat=100)
        if after_others:
            env.reset(seed=9)
            for action in actions_for(env, 3, seed=1):
                env.step(action)
        hashes.append(hash_of_episode(env))
        env.close()
    return hashes


def hash_of_episode(env: gym.Env) -> str:
    frame, _ = env.reset(seed=4)
    digest, ended = hashlib.sha256(frame.tobytes()), False
    for action in actions_for(env, 10):
        frame, reward, terminated, truncated, _ = env.step(action)
        digest.update(frame.tobytes() + np.float64(reward).tobytes())
        ended = terminated or truncated
    assert ended
    return digest.hexdigest()


@pytest.mark.gl
def test_whole_episode_is_bit_equal_in_a_fresh_process():
    fresh = words_printed_by("from test_envs import whole_episodes; print(*whole_episodes(after_others=False))")
    assert whole_episodes(after_others=True) == fresh
    assert len(set(fresh)) == 2


def test_action_repeat_adds_rewards_and_stops_at_the_episodes_end():
    settings = {"obs": "state", "time_limit": 0.065}  # 7 steps of 0.01 s
    single = envs.make_env("dmc/cartpole_swingup", **settings)
    repeated = envs.make_env("dmc/cartpole_swingup", action_repeat=4, **settings)
    single.reset(seed=0)
    repeated.reset(seed=0)
    actions = np.array([[0.9], [-0.4]], np.float32)
    ones = [single.step(actions[i // 4]) for i in range(7)]
    fours = [repeated.step(action) for action in actions]
    assert fours[0][1] == sum(one[1] for one in ones[:4])
    assert fours[1][1] == sum(one[1] for one in ones[4:])
    assert np.array_equal(fours[1][0], ones[6][0])
    assert [one[2:4] for one in ones] == [(False, False)] * 6 + [(False, True)]
    assert [four[2:4] for four in fours] == [(False, False), (False, True)]
    with pytest.raises(RuntimeError, match="call reset"):
        repeated.step(actions[0])


def test_a_tasks_own_end_terminates(monkeypatch):
    env = envs.make_env("dmc/cartpole_swingup", obs="state", action_repeat=3).unwrapped
    env.reset(seed=0)
    monkeypatch.setattr(env._env.task, "get_termination", lambda physics: 0.0)
    assert env.step(np.zeros(1, np.float32))[2:4] == (True, False)


def test_actions_are_scaled_to_the_actuators():
    env = envs.make_env("dmc/quadruped_walk", obs="state").unwrapped
    env.reset(seed=0)
    spec = env._env.action_spec()
    assert (spec.maximum != 1).any()
    for value, bound in ((-1, spec.minimum), (0, (spec.minimum + spec.maximum) / 2), (1, spec.maximum)):
        env.step(np.full(12, value, np.float32))
        assert np.allclose(env._env.physics.control(), bound, rtol=0, atol=1e-15)
    with pytest.raises(ValueError, match="shape"):
        env.step(np.zeros(1, np.float32))


def test_actions_of_actuators_without_a_range_pass_as_they_are():
    env = envs.make_env("dmc/lqr_lqr_6_2", obs="state").unwrapped
    env.reset(seed=0)
    env.step(np.array([0.25, -1.0], np.float32))
    assert np.array_equal(env._env.physics.control(), [0.25, -1.0])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"camera": 7}, "cameras 0 to 1 .fixed, lookatcart."),
        ({"camera": "front"}, "lookatcart"),
        ({"obs": "rgb"}, "'pixels' or 'state'"),
        ({"action_repeat": 0}, "at least 1"),
    ],
)
def test_dmc_refuses_bad_settings(kwargs, message):
    with pytest.raises(EnvError, match=message):
        envs.make_env("dmc/cartpole_swingup", **{"obs": "state", **kwargs})


# DeepMind Control: the image


@pytest.mark.gl
@pytest.mark.parametrize("name", ["cartpole_swingup", "quadruped_escape"])
def test_frames_equal_physics_render_bit_for_bit(name):
    size = 84
    ours, other = (envs.make_env(f"dmc/{name}", image_size=size).unwrapped for _ in range(2))
    frame, _ = ours.reset(seed=2)
    other.reset(seed=3)  # shares the context, and must not disturb the first
    from dm_control import suite

    reference = suite.load(*dmc.TASKS[name], task_kwargs={"random": 2})
    reference.reset()
    for action in actions_for(ours, 2):
        assert np.array_equal(frame.transpose(1, 2, 0), reference.physics.render(size, size, camera_id=0))
        other.step(-action)
        frame, *_ = ours.step(action)
        reference.step(ours._middle + ours._half * np.float64(action))
    assert np.array_equal(ours.render((60, 80)), reference.physics.render(60, 80, camera_id=0))
    reference.physics.free()
    ours.close()
    other.close()


@pytest.mark.gl
def test_one_context_of_the_images_size_for_all_environments_of_a_task():
    first, second = (envs.make_env("dmc/cartpole_swingup", image_size=20).unwrapped for _ in range(2))
    first.reset(seed=0)
    second.reset(seed=0)
    renderer = first._renderers[20, 20]
    assert second._renderers[20, 20] is renderer
    assert (renderer._context.ptr.offWidth, renderer._context.ptr.offHeight) == (20, 20)
    assert first._env.physics.model.vis.global_.offwidth == 640
    del renderer
    first.close()
    assert ("cartpole_swingup", (20, 20)) in dmc._RENDERERS
    second.close()
    gc.collect()
    assert ("cartpole_swingup", (20, 20)) not in dmc._RENDERERS


@pytest.mark.gl
def test_cameras_by_name_and_number_and_what_made_the_image():
    def frame(camera):
        env = envs.make_env("dmc/cartpole_swingup", image_size=24, camera=camera)
        image, _ = env.reset(seed=0)
        info = env.unwrapped.render_info
        env.close()
        return image, info

    (fixed, info), (named, _), (second, _), (free, _) = map(frame, (0, "fixed", "lookatcart", -1))
    assert np.array_equal(fixed, named)
    assert len({image.tobytes() for image in (fixed, second, free)}) == 3
    assert set(info) == {"mujoco", "gl_backend", "gl_renderer"}
    assert all(info.values())


# Label maps


def classes_of(segmentation: np.ndarray, model) -> np.ndarray:
    """Map dm_control's (object, type) of each pixel to classes, one pixel at a time."""
    import mujoco

    owner = {int(mujoco.mjtObj.mjOBJ_GEOM): model.geom_bodyid, int(mujoco.mjtObj.mjOBJ_SITE): model.site_bodyid}
    classes = np.zeros(segmentation.shape[:2], np.uint8)
    for place in np.ndindex(classes.shape):
        index, kind = segmentation[place]
        if index >= 0:
            classes[place] = min(255, 1 + (owner[kind][index] if kind in owner else model.nbody))
    return classes


@pytest.mark.gl
@pytest.mark.parametrize(
    ("name", "shown"),
    # Sky, world, cart, pole; sky, world, cup, ball, tendon (one past the last body); floor and skin; terrain.
    [
        ("cartpole_swingup", {0, 1, 2, 3}),
        ("ball_in_cup_catch", {0, 1, 2, 3, 4}),
        ("dog_stand", {1, 63}),
        ("quadruped_escape", {1}),
    ],
)
def test_labels_equal_physics_segmentation(name, shown):
    env = envs.make_env(f"dmc/{name}", image_size=84, labels=True).unwrapped
    from dm_control import suite

    reference = suite.load(*dmc.TASKS[name], task_kwargs={"random": 2})
    reference.reset()
    env.reset(seed=3)  # with other terrain
    _, info = env.reset(seed=2)
    assert set(np.unique(info["labels"])) >= shown
    for action in actions_for(env, 3):
        segmentation = reference.physics.render(21, 21, camera_id=0, segmentation=True)
        assert np.array_equal(info["labels"], classes_of(segmentation, reference.physics.model))
        assert info["labels"].dtype == np.uint8
        *_, info = env.step(action)
        reference.step(env._middle + env._half * np.float64(action))
    reference.physics.free()
    env.close()


@pytest.mark.gl
@pytest.mark.parametrize("name", ["cartpole_swingup", "quadruped_escape"])
def test_labels_leave_frames_as_they_are(name):
    # The third shows frames through the very renderer that makes the first's labels.
    labelled, plain, small, alone = (
        envs.make_env(f"dmc/{name}", image_size=size, labels=labels).unwrapped
        for size, labels in ((96, True), (96, False), (24, False), (24, False))
    )
    group = (labelled, plain, small)
    results = [env.reset(seed=1) for env in group]
    flags = labelled._renderers[24, 24]._scene.flags.copy()
    frames = [small.render()]
    for action in actions_for(plain, 3):
        assert np.array_equal(results[0][0], results[1][0])
        assert set(results[0][-1]) == {"labels"}
        assert results[1][-1] == {}
        results = [env.step(action) for env in group]
        frames.append(results[2][0].transpose(1, 2, 0))
    assert np.array_equal(labelled._renderers[24, 24]._scene.flags, flags)
    for env in group:
        env.close()
    alone.reset(seed=1)
    again = [alone.render()] + [alone.step(action)[0].transpose(1, 2, 0) for action in actions_for(alone, 3)]
    assert np.array_equal(frames, again)
    alone.close()


def test_classes_beyond_a_byte_become_the_last():
    from types import SimpleNamespace

    import mujoco

    geom = mujoco.mjtObj.mjOBJ_GEOM
    renderer = object.__new__(dmc._Renderer)
    renderer._mujoco = mujoco
    geoms = [SimpleNamespace(segid=i, objid=i, objtype=geom) for i in range(3)]
    unseen = SimpleNamespace(segid=-1, objid=0, objtype=geom)
    renderer._scene = SimpleNamespace(
        ngeom=4, geoms=[*geoms, unseen], override_flags=lambda flags: contextlib.nullcontext()
    )
    renderer._update = lambda physics, camera: None
    renderer._read = lambda: np.array([[[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]]], np.uint8)
    model = SimpleNamespace(geom_bodyid=np.array([253, 254, 300]), site_bodyid=np.array([]), nbody=301)
    assert renderer.segment(SimpleNamespace(model=model), 0).tolist() == [[0, 254, 255, 255]]


def test_toy_labels_by_hand():
    env = toy.ReachEnv(image_size=32, labels=True)
    _, info = env.reset(seed=0)
    assert info["labels"].shape == (envs.label_side(32),) * 2 == (8, 8)
    env._target = np.array([1.0, 1.0]) / 0.85 * 0.625  # the middle of cell (6, 6), drawn at 0.625
    env._point = np.array([-0.625, 0.125]) / 0.85 - np.array([env.speed, 0])  # one step left of cell (4, 1)
    *_, info = env.step(np.array([1.0, 0.0]))
    cells = [[row, column, info["labels"][row, column]] for row, column in np.argwhere(info["labels"])]
    # A disc's radius is 0.8 of a cell: it covers the cell in whose middle it lies, and half of none beside it.
    assert cells == [[4, 1, 2], [6, 6, 1]]


@pytest.mark.parametrize("name", ["reach", "grid"])
def test_toy_labels_show_what_the_frame_shows(name):
    env = envs.make_env(f"toy/{name}", image_size=48, labels=True)
    env.action_space.seed(0)
    frame, info = env.reset(seed=0)
    for _ in range(4):
        means = frame.reshape(3, 12, 4, 12, 4).mean((2, 4)) / 255
        assert ((means[0] > 0.75) <= (info["labels"] == 2)).all()
        assert ((means[1] > 0.75) <= (info["labels"] == 1)).all()
        assert (info["labels"][means.sum(0) == 0] == 0).all()
        assert {1, 2} <= set(info["labels"].flat)
        frame, _, _, _, info = env.step(env.action_space.sample())


@pytest.mark.parametrize("lane", [envs.LocalEnv, envs.RemoteEnv])
def test_labels_reach_the_trainers_side(lane):
    env = lane("toy/reach", {"labels": True, "image_size": 24})
    assert env.reset(0)[1]["labels"].shape == (6, 6)
    env.send(np.zeros(2, np.float32))
    assert env.receive()[-1]["labels"].dtype == np.uint8
    env.close()


def test_labels_do_not_change_what_is_measured():
    for task, unchanged in (("dmc/cheetah_run", "1c433e598898"), ("toy/reach", "e3a4a3a403f4")):
        assert envs.protocol(task)["hash"] == unchanged
        assert envs.protocol(task, labels=True) == envs.protocol(task)
    with pytest.raises(TypeError, match="labels"):
        envs.protocol("atari/pong", labels=True)


@pytest.mark.parametrize("task", ["dmc/cartpole_swingup", "toy/reach"])
def test_labels_need_pixels(task):
    with pytest.raises(EnvError, match="labels need obs='pixels'"):
        envs.make_env(task, obs="state", labels=True)


def test_labels_need_a_whole_cell():
    with pytest.raises(EnvError, match="image_size of at least 4"):
        envs.make_env("dmc/cartpole_swingup", image_size=3, labels=True)
