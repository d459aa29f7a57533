"""Atari games whose memory can be read, which the C++ environment of the runs hides."""

from typing import Any

import gymnasium as gym
import numpy as np

from curl_rl.envs.atari import AtariEnv, Protocol, find_game, find_protocol
from curl_rl.envs.errors import EnvError

# Addresses of Anand et al. 2019 (table 7 and their code) that vary; Breakout's score is five times its blocks.
_ADDRESSES = {"breakout": {"ball_x": 99, "ball_y": 101, "paddle_x": 72, "blocks_hit": 77}}


def tells_state(game: str) -> bool:
    """Return whether the quantities in a game's memory are known."""
    return find_game(game) in _ADDRESSES


def make_game(
    game: str,
    *,
    protocol: str | Protocol = "atari100k",
    obs: str = "pixels",
    image_size: int = 84,
    render_mode: str | None = "rgb_array",
    state: bool = False,
) -> gym.Env:
    """Return an `AtariEnv` or, with `state`, one of the same frames that names the game's quantities in `info`."""
    env = AtariEnv(game, protocol=protocol, obs=obs, image_size=image_size, render_mode=render_mode)
    if not state:
        return env
    if not tells_state(game) or env.protocol.resize != "area":
        raise EnvError(
            f"state is known of {', '.join(_ADDRESSES)} whose frames shrink by area, not of {game} under "
            f"{env.protocol.name}"
        )
    env.close()
    return ConsoleEnv(game, find_protocol(protocol))


class ConsoleEnv(gym.Wrapper):
    """One game through Gymnasium's preprocessing: slower, the frames of `AtariEnv` bit for bit, other no-op draws."""

    def __init__(self, game: str, protocol: Protocol):
        import ale_py
        from gymnasium.wrappers import AtariPreprocessing

        gym.register_envs(ale_py)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        name = "".join(part.capitalize() for part in str(find_game(game)).split("_"))
        options = {"repeat_action_probability": protocol.sticky, "max_num_frames_per_episode": 0}
        played = gym.make(f"ALE/{name}-v5", frameskip=1, full_action_space=protocol.full_action_set, **options)
        shape = {"noop_max": protocol.noop_max, "frame_skip": protocol.action_repeat, "screen_size": protocol.screen}
        super().__init__(AtariPreprocessing(played, **shape))
        self.protocol = protocol
        self.observation_space = gym.spaces.Box(0, 255, (1, protocol.screen, protocol.screen), np.uint8)
        self._addresses = _ADDRESSES[str(find_game(game))]
        self._lives = self._frames = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        frame, info = self.env.reset(seed=seed)
        self._lives, self._frames = info["lives"], 0
        return frame[None], {"lives": self._lives, "life_lost": False, "state": self._state()}

    def step(self, action: Any):
        frame, reward, terminated, truncated, info = self.env.step(action)
        lives = info["lives"]
        self._frames += self.protocol.action_repeat
        truncated = not terminated and (truncated or self._frames >= self.protocol.max_frames)
        life_lost = self.protocol.life_loss and not terminated and 0 < lives < self._lives
        self._lives = lives
        told = {"lives": lives, "life_lost": life_lost, "state": self._state()}
        return frame[None], float(reward), terminated, truncated, told

    def _state(self) -> dict[str, float]:
        memory: Any = self.env.unwrapped
        ram = memory.ale.getRAM()
        return {name: float(ram[address]) for name, address in self._addresses.items()}
