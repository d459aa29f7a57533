"""Atari games under a named protocol: one at a time for learning, many at once for evaluation."""

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from curl_rl.envs.errors import EnvError

Transition = tuple[np.ndarray, float, bool, bool, dict[str, Any]]

_NEEDS_TWO = {"combat", "joust", "maze_craze", "warlords"}  # ale-py ends the whole process when it loads one alone
_NEVER = 2**30  # frames: this module counts them itself, see AtariEnv.receive


@dataclass(frozen=True)
class Protocol:
    """All that decides what an Atari score means, and how an agent may learn from the game.

    `resize` is "area" or "linear"; `max_pool` takes the maximum of a step's last two frames; `noop_max` (0: none) is
    the most frames without action at a game's start, drawn from 1 up; `max_frames` truncates. `life_loss` and
    `reward_clip` are for learning only: scores count whole games and unclipped rewards. `frame_stack` and `padding`
    ("zero" or "repeat") say how single frames become an observation, which is left to the reader of frames.
    """

    name: str
    sticky: float = 0.0  # probability that a frame repeats the action before (Machado et al. 2018)
    action_repeat: int = 4
    max_pool: bool = True
    screen: int = 84
    resize: str = "area"
    frame_stack: int = 4
    padding: str = "zero"
    noop_max: int = 30
    life_loss: bool = True
    reward_clip: float = 1.0
    max_frames: int = 108_000
    full_action_set: bool = False

    def __post_init__(self) -> None:
        if self.resize not in ("area", "linear"):
            raise EnvError(f"resize must be 'area' or 'linear', not {self.resize!r}")
        if self.padding not in ("zero", "repeat"):
            raise EnvError(f"padding must be 'zero' or 'repeat', not {self.padding!r}")
        if not 0 <= self.sticky < 1:
            raise EnvError(f"sticky must be at least 0 and below 1, not {self.sticky}")
        if min(self.action_repeat, self.screen, self.frame_stack, self.max_frames) < 1 or self.noop_max < 0:
            raise EnvError(f"action_repeat, screen, frame_stack, max_frames must be 1 or more, noop_max 0: {self}")


# "atari100k": Kaiser et al. 2020 (SimPLe) with the preprocessing of van Hasselt et al. 2019, as its successors measure.
# "atari100k_linear": the same, but frames shrink as in the original CURL code, by OpenCV's linear interpolation.
# "sticky": the sticky actions of Machado et al. 2018 and of Gymnasium's ALE/...-v5, whole games for learning, and these
# frames and actions as above (Machado's have all 18 actions, v5's no maximum of frames).
# The original draws 0 to 29 no-ops and plays one more after each lost life.
PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("atari100k"),
        Protocol("atari100k_linear", resize="linear"),
        Protocol("sticky", sticky=0.25, noop_max=0, life_loss=False),
    )
}


@functools.cache
def games() -> tuple[str, ...]:
    """Return every single-player game of ale-py in snake case, without importing it; none where it is absent."""
    spec = importlib.util.find_spec("ale_py")
    if spec is None or spec.origin is None:
        return ()
    roms = {path.stem for path in Path(spec.origin).with_name("roms").glob("*.bin")}
    return tuple(sorted(roms - _NEEDS_TWO))


def find_game(spelling: str) -> str | None:
    """Return the game that "MsPacman" or "ms_pacman" names, by letters and digits alone; None for an unknown one."""
    return {game.replace("_", ""): game for game in games()}.get(spelling.replace("_", "").lower())


def find_protocol(protocol: str | Protocol) -> Protocol:
    """Return the protocol of that name, or the one given. Raises EnvError for an unknown name."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise EnvError(f"protocol must be one of {', '.join(PROTOCOLS)}, not {protocol!r}")
    return PROTOCOLS[protocol]


class AtariEnv(gym.Env[np.ndarray, Any]):
    """One game, played to its end: a lost life is only told, a reward is never clipped.

    Observations are single frames (1, 84, 84) uint8, actions the game's own few. `info` has "lives" and "life_lost",
    which is True where the protocol counts a lost life as an end for learning and the game goes on. `reset(seed=s)`
    and the same actions give the same game bit for bit, whatever ran before, sticky actions included.

    It steps ale-py's C++ vector environment of one game, which does frame skip, maximum and resize.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        game: str,
        *,
        protocol: str | Protocol = "atari100k",
        obs: str = "pixels",
        image_size: int = 84,
        render_mode: str | None = "rgb_array",
    ):
        name = find_game(game)
        if name is None:
            raise EnvError(f"{game!r} is no single-player game of ale-py: envs.list_tasks() lists them")
        self.protocol = find_protocol(protocol)
        if obs != "pixels":
            raise EnvError(f"Atari games give obs='pixels' only, not {obs!r}")
        if image_size != self.protocol.screen:
            raise EnvError(f"protocol {self.protocol.name!r} fixes image_size={self.protocol.screen}, not {image_size}")
        self.render_mode = render_mode
        self._game = name
        self._native, self._start_frames = _console(name)
        self._shrink = (
            LinearResize(self._native, (image_size, image_size)) if self.protocol.resize == "linear" else None
        )
        self._vector: Any = self._make()
        self._frame: np.ndarray | None = None
        self._ended, self._lives, self._frames = True, 0, 0
        self.observation_space = gym.spaces.Box(0, 255, (1, image_size, image_size), np.uint8)
        self._actions = int(self._vector.single_action_space.n)
        self.action_space = gym.spaces.Discrete(self._actions)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Start the game of `seed` (0 to 2**31 - 1); without one, of a seed that follows from the last given."""
        if seed is not None and not 0 <= seed < 2**31:
            raise ValueError(f"seed must be 0 to 2**31 - 1, not {seed}")
        super().reset(seed=seed, options=options)
        observation, info = self._start(int(self.np_random.integers(2**31)) if seed is None else seed)
        self._ended, self._frames, self._lives = False, 0, int(info["lives"][0])
        self._frame = self._view(observation)
        return self._frame, {"lives": self._lives, "life_lost": False}

    def step(self, action: int) -> Transition:
        """Hold an action for `action_repeat` frames, fewer where the game ends; return the raw score it gained."""
        self.send(action)
        return self.receive()

    def check(self, action: Any) -> int:
        """Return the action as an integer. Raises ValueError for one that the game has not."""
        if self._ended:
            raise RuntimeError("this episode has ended: call reset before step")
        # The simulator's own refusal comes in another thread, and its caller would wait for ever.
        if not self.action_space.contains(action):
            raise ValueError(f"{self._game} has actions 0 to {self._actions - 1}, not {action!r}")
        return int(action)

    def send(self, action: int) -> None:
        """Start a step in the simulator's own thread; `receive` must follow."""
        self._vector.send(np.array([self.check(action)]))

    def receive(self) -> Transition:
        """Wait for the step that was sent and return what `step` returns."""
        observation, reward, over, _, state = self._vector.recv()
        terminated, lives = bool(over[0]), int(state["lives"][0])
        self._frames += self.protocol.action_repeat
        # Counted here, for the simulator would stop before it has taken the last frame, and a truncated episode's last
        # observation is one to bootstrap from.
        truncated = not terminated and self._frames >= self.protocol.max_frames
        # Some games, Q*bert for one, show no life left for some frames before they are over.
        life_lost = self.protocol.life_loss and not terminated and 0 < lives < self._lives
        self._ended, self._lives = terminated or truncated, lives
        self._frame = self._view(observation)
        return self._frame, float(reward[0]), terminated, truncated, {"lives": lives, "life_lost": life_lost}

    def render(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the last frame in grey (H, W, 3) uint8, its pixels repeated or left out to `size` = (H, W)."""
        if self._frame is None:
            raise RuntimeError("there is no frame yet: call reset before render")
        frame = self._frame[0]
        if size is not None:
            rows, columns = (np.arange(n) * m // n for n, m in zip(size, frame.shape, strict=True))
            frame = frame[rows[:, None], columns]
        return np.repeat(frame[..., None], 3, axis=2)

    def close(self) -> None:
        """End the simulator's thread."""
        self._vector, self._ended = None, True

    def _make(self) -> Any:
        from ale_py.vector_env import AtariVectorEnv

        protocol = self.protocol
        # At its native size the simulator's own resize, always by area, copies.
        height, width = self._native if protocol.resize == "linear" else (protocol.screen, protocol.screen)
        return AtariVectorEnv(
            self._game,
            1,
            num_threads=1,
            max_num_frames_per_episode=_NEVER,
            repeat_action_probability=protocol.sticky,
            full_action_space=protocol.full_action_set,
            img_height=height,
            img_width=width,
            stack_num=1,
            frameskip=protocol.action_repeat,
            maxpool=protocol.max_pool,
            noop_max=protocol.noop_max + 1 if protocol.noop_max else 0,  # see _start
            reward_clipping=False,
            use_fire_reset=False,
        )

    def _start(self, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Start the game of a seed with 1 to `noop_max` frames without action.

        The simulator draws 0 to one less than its own limit, and from the seed alone. Where it drew 0, the game starts
        again from a seed that follows from this one: every count from 1 is then as likely, and no game of a
        neighbouring seed is met twice.
        """
        attempt, draw = 0, seed
        while True:
            observation, info = self._vector.reset(seed=np.array([draw]))
            if not self.protocol.noop_max or info["episode_frame_number"][0] != self._start_frames:
                return observation, info
            attempt += 1
            draw = int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0] >> 1)

    def _view(self, observation: np.ndarray) -> np.ndarray:
        frame = observation[0]
        return frame if self._shrink is None else self._shrink(frame[0])[None]


class LinearResize:
    """OpenCV's INTER_LINEAR from (height, width) `source` to `target` for grey images, to within one grey level."""

    def __init__(self, source: tuple[int, int], target: tuple[int, int]):
        (self._top, self._down), (self._left, self._right) = map(_neighbours, source, target)
        self._down = self._down[:, None]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return an image (H, W) uint8 in the target's size."""
        upper = image[self._top].astype(np.float32)
        rows = upper + self._down * (image[self._top + 1] - upper)
        left = rows[:, self._left]
        return (left + self._right * (rows[:, self._left + 1] - left) + 0.5).astype(np.uint8)


def _neighbours(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each target pixel's centre, the source pixel before it and the weight of the one after."""
    place = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    before = np.minimum(place.astype(np.int64), source - 2)
    return before, (place - before).astype(np.float32)


@functools.cache
def _console(game: str) -> tuple[tuple[int, int], int]:
    """Return a game's native (height, width) and the frames that its own start takes before any no-op."""
    import ale_py
    from ale_py import roms

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    console = ale_py.ALEInterface()
    # With sticky actions double_dunk starts in a varying number of frames, and may then go without a no-op.
    console.setFloat("repeat_action_probability", 0.0)
    console.loadROM(str(roms.get_rom_path(game)))
    return console.getScreenDims(), console.getEpisodeFrameNumber()


class AtariLane:
    """One of several games that step at once, with the interface of `envs.LocalEnv`."""

    def __init__(self, env: AtariEnv, turns: "_Turns"):
        self._env, self._turns, self._pending = env, turns, False
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.render_info: dict[str, str] = {}

    def reset(self, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the game of `seed`; a step that was sent and not received is dropped."""
        if self._pending:
            self.receive()
        return self._env.reset(seed=seed)

    def send(self, action: Any) -> None:
        """Start a step, now or as soon as others have ended theirs."""
        if self._pending:
            raise RuntimeError("send: the last action's result was not received")
        self._turns.send(self._env, self._env.check(action))
        self._pending = True

    def receive(self) -> Transition:
        """Wait for the step that was sent; return frame, reward, terminated, truncated, info."""
        if not self._pending:
            raise RuntimeError("receive: no action was sent")
        self._pending = False
        return self._turns.receive(self._env)

    def render(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the last frame in grey (H, W, 3) uint8, at `size` if given."""
        return self._env.render(size)

    def close(self) -> None:
        """End the game's thread; other lanes go on."""
        if self._pending:
            self.receive()
        self._env.close()


class _Turns:
    """Lets at most `limit` games step at once; the others start in the order in which they were sent."""

    def __init__(self, limit: int):
        self._free = limit
        self._waiting: dict[AtariEnv, int] = {}

    def send(self, env: AtariEnv, action: int) -> None:
        self._waiting[env] = action
        self._start_next()

    def receive(self, env: AtariEnv) -> Transition:
        if env in self._waiting:  # asked for before those that hold all turns: one more must start
            self._start(env)
        transition = env.receive()
        self._free += 1
        self._start_next()
        return transition

    def _start_next(self) -> None:
        while self._free > 0 and self._waiting:
            self._start(next(iter(self._waiting)))

    def _start(self, env: AtariEnv) -> None:
        self._free -= 1
        env.send(self._waiting.pop(env))


def make_lanes(game: str, count: int, threads: int, **kwargs: Any) -> list[AtariLane]:
    """Create `count` games of which `threads` step at once; `kwargs` are AtariEnv's, and each plays as one would.

    A game each with a thread that sleeps between its steps, not ale-py's batch: a batch steps all its games until the
    last has ended, and one that is stuck takes fifty times as long as the rest.
    """
    if count < 1 or threads < 1:
        raise ValueError(f"count ({count}) and threads ({threads}) must be at least 1")
    turns = _Turns(threads)
    return [AtariLane(AtariEnv(game, **kwargs), turns) for _ in range(count)]
