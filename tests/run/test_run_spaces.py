"""What a run asks of its environment's spaces."""

import gymnasium as gym
import numpy as np
import pytest

from curl_rl.config.overrides import compose
from curl_rl.run.spaces import count_actions, seen_shape
from curl_rl.types import ConfigError

REACH, GRID = compose(["task=toy/reach"]), compose(["task=toy/grid", "preset=rainbow"])
STATE = compose(["task=dmc/cartpole_swingup", "preset=state"])


def frames(*shape: int) -> gym.Space:
    return gym.spaces.Box(0, 255, shape, np.uint8)


def states(size: int) -> gym.Space:
    return gym.spaces.Box(-1, 1, (size,), np.float32)


def test_the_encoder_sees_a_stack_as_its_augmentation_leaves_it():
    side = REACH.env.image_size
    assert seen_shape(REACH, frames(3, side, side)) == (6, side, side)
    cropped = compose(["task=toy/reach", "augmentation=crop", "augmentation.size=24"])
    assert seen_shape(cropped, frames(3, side, side)) == (6, 24, 24)
    assert seen_shape(STATE, states(4)) == (4 * STATE.env.frame_stack,)


def test_other_frames_than_those_asked_for_are_refused():
    side = REACH.env.image_size
    for space in (frames(3, side + 1, side + 1), states(4)):
        with pytest.raises(ConfigError, match=rf"toy/reach gives .* where frames of env.image_size={side}"):
            seen_shape(REACH, space)
    with pytest.raises(ConfigError, match=r"where vectors \(env\.obs=state\) were asked for: mend its settings"):
        seen_shape(STATE, frames(3, 8, 8))
    with pytest.raises(ConfigError, match="needs spaces of arrays, not Dict"):
        seen_shape(REACH, gym.spaces.Dict({"a": states(4)}))


def test_actions_are_counted_and_others_than_the_agents_refused():
    assert count_actions(REACH, gym.spaces.Box(-1, 1, (5,), np.float32)) == 5
    assert count_actions(GRID, gym.spaces.Discrete(4)) == 4
    with pytest.raises(ConfigError, match=r"agent=sac needs continuous actions, .* choose agent=rainbow"):
        count_actions(REACH, gym.spaces.Discrete(4))
    with pytest.raises(ConfigError, match=r"agent=rainbow needs discrete actions, .* choose agent=sac"):
        count_actions(GRID, gym.spaces.Box(-1, 1, (5,), np.float32))
