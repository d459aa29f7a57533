"""How many CPU threads an update runs on: measured before a run, because neither cores nor arithmetic tell."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from curl_rl.config.schema import Config
from curl_rl.nn import beside
from curl_rl.nn.beside import width
from curl_rl.replay.replay import Replay
from curl_rl.run.assembly import make_agent, make_replay
from curl_rl.run.machine import usable_cores
from curl_rl.run.rollout import random_action
from curl_rl.run.streams import silent_stderr
from curl_rl.types import Environment

ROUNDS, STEPS, PATIENCE = 5, 2, 15.0  # seconds, after which a round is the last
GAIN = 0.7  # of the time: a machine's noise must not make two runs of one seed round their sums differently


def choose_threads(config: Config, env: Environment, device: torch.device) -> tuple[Config, dict[str, Any]]:
    """Return a configuration with the number of threads that it left open, torch's then too, and what tells of it.

    On a CPU the fewest are taken that are fast. Measured are the seconds of an agent step with its updates, by the
    number of threads: the environment steps beside the update as it will in the run, and is left within an episode.
    """
    numbers = candidates(usable_cores())
    if config.threads or device.type != "cpu" or len(numbers) == 1:
        return config, {"threads": beside.threads()}
    seconds = {number: statistics.median(times) for number, times in _measure(config, env, numbers).items()}
    chosen = fewest(seconds)
    beside.use_threads(chosen)
    told = {"threads": chosen, "seconds_per_step": {str(n): round(each, 6) for n, each in seconds.items()}}
    return dataclasses.replace(config, threads=chosen), told


def _measure(config: Config, env: Environment, numbers: Sequence[int]) -> dict[int, list[float]]:
    step, seconds = _stepping(config, env), {number: list[float]() for number in numbers}
    start = time.monotonic()
    for turn in range(ROUNDS + 1):
        for number in numbers:
            beside.use_threads(number)
            began = time.perf_counter()
            for _ in range(STEPS):
                step()
            if turn:  # the first one allocates
                seconds[number].append((time.perf_counter() - began) / STEPS)
        if turn and time.monotonic() - start > PATIENCE:
            break
    return seconds


def candidates(cores: int) -> list[int]:
    """Return the numbers of threads worth a try: powers of two, all cores, and some fewer, where others work too."""
    return sorted({2**i for i in range(cores.bit_length())} | {max(1, each // 2 * 2) for each in (cores, cores - 1)})


def fewest(seconds: dict[int, float]) -> int:
    """Return the quickest of the numbers that give operations the fewest threads with which no more save three tenths.

    Those give the same bits.
    """
    best = min(seconds.values())
    least = min(width(number) for number, time in seconds.items() if time * GAIN <= best)
    return min((number for number in seconds if width(number) == least), key=seconds.__getitem__)


def _stepping(config: Config, env: Environment) -> Callable[[], None]:
    """Return what takes an agent step with its updates, on random frames; agent and replay are not the run's."""
    least = config.env.frame_stack + config.agent.n_step + config.horizon
    small = dataclasses.replace(config.replay, capacity=4 * config.batch_size + least)
    config = dataclasses.replace(config, replay=small)
    with silent_stderr():  # the run's own replay tells its size
        replay = make_replay(config, env, torch.device("cpu"))
    agent, rng = make_agent(config, env, torch.device("cpu")), np.random.default_rng(0)
    fill(replay, env, config.replay.capacity)
    env.reset(0)

    def step() -> None:
        env.send(random_action(env.action_space, rng))
        for _ in range(config.updates_per_step):
            agent.update(replay.sample(config.batch_size, rng, agent.n_step, agent.discount))
        if any(env.receive()[2:4]):
            env.reset(0)

    return step


def fill(replay: Replay, env: Environment, count: int) -> None:
    """Store random frames of the environment's shape: an update's time does not depend on what they show."""
    rng = np.random.default_rng(0)
    space = env.observation_space
    frames = rng.integers(0, 256, (16, *(space.shape or ()))).astype(space.dtype)
    labels = env.reset(0)[1].get("labels")
    for i in range(count):
        if i % 250 == 0:
            replay.begin(frames[0], labels=labels)
        action = random_action(env.action_space, rng)
        replay.add(action, rng.random(), False, i % 250 == 249, frames[i % len(frames)], labels=labels)
