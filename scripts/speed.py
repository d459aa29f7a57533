"""Measures a configuration's speed and prints JSON: python scripts/speed.py preset=paper batch_size=128 device=cpu."""

import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from curl_rl.assembly import RunEnv, choose_device, make_agent, make_environment, make_replay, prepare_torch
from curl_rl.cli import explain
from curl_rl.config import Config
from curl_rl.overrides import compose
from curl_rl.replay import Replay

WARMUP, UPDATES, STEPS = 8, 24, 60


class Stopwatch:
    """Collects seconds by name; on CUDA every reading waits for the device."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        start = self.now()
        yield
        self.seconds[name].append(self.now() - start)

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.timing(name):
                return function(*args, **kwargs)

        return timed

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])


def fill(replay: Replay, env: RunEnv, count: int) -> None:
    """Store random frames of the environment's shape: an update's time does not depend on what they show."""
    rng = np.random.default_rng(0)
    space, actions = env.observation_space, env.action_space
    frames = rng.integers(0, 256, (16, *(space.shape or ()))).astype(space.dtype)
    for i in range(count):
        if i % 250 == 0:
            replay.begin(frames[0])
        action = rng.uniform(-1, 1, actions.shape).astype(np.float32)
        replay.add(action, rng.random(), False, i % 250 == 249, frames[i % len(frames)])


def time_updates(config: Config, agent: Any, replay: Replay, device: torch.device) -> dict[str, Any]:
    """Time whole updates undisturbed, then their stages, and count one's floating-point operations."""
    rng = np.random.default_rng(0)
    watch = Stopwatch(device)
    for _ in range(WARMUP):
        agent.update(replay.sample(config.batch_size, rng))
    for _ in range(UPDATES):
        with watch.timing("total"):
            agent.update(replay.sample(config.batch_size, rng))
    with FlopCounterMode(display=False) as counter:  # captured graphs hide theirs: counted where eager
        for _ in range(2):
            agent.update(replay.sample(config.batch_size, rng))
    for optimizer in agent.optimizers.values():
        optimizer.step = watch.wrap("optimizer_part", optimizer.step)
    agent._augment = watch.wrap("crop_part", agent._augment)
    for _ in range(UPDATES):
        with watch.timing("sample"):
            batch = replay.sample(config.batch_size, rng)
        with watch.timing("update"):
            agent.update(batch)
    parts = {name: sum(watch.seconds[f"{name}_part"]) / UPDATES for name in ("crop", "optimizer")}
    total = watch.median("total")
    return {
        "seconds_per_update": {
            "sample": watch.median("sample"),
            "crop": parts["crop"],
            "forward_backward": watch.median("update") - parts["crop"] - parts["optimizer"],
            "optimizer": parts["optimizer"],
            "total": total,
        },
        "updates_per_second": 1 / total,
        "gflop_per_update": counter.get_total_flops() / 2e9,
        "gflops": counter.get_total_flops() / 2e9 / total,
    }


def time_matmul(device: torch.device, dtype: torch.dtype) -> float:
    """Return the GFLOP/s of a 2048-cubed matrix product."""
    watch = Stopwatch(device)
    a, b, out = (torch.randn(2048, 2048, device=device, dtype=dtype) for _ in range(3))
    for _ in range(10):
        with watch.timing("product"):
            torch.mm(a, b, out=out)
    return 2 * 2048**3 / 1e9 / watch.median("product")


def time_environment(config: Config, env: RunEnv, agent: Any, replay: Replay, device: torch.device) -> dict[str, float]:
    """Time steps alone, then the wait for a step that ran beside an update, and acting."""
    rng = np.random.default_rng(0)
    watch = Stopwatch(device)
    frame, _ = env.reset(0)
    obs = np.concatenate([frame] * config.env.frame_stack)[None]
    for i in range(2 * STEPS):
        with watch.timing("act"):
            action = agent.act(obs, explore=True)[0]
        overlapped = i % 2 == 1
        with watch.timing("step" if not overlapped else "step_and_update"):
            env.send(action)
            if overlapped:
                with watch.timing("update"):
                    agent.update(replay.sample(config.batch_size, rng))
                with watch.timing("wait"):
                    *_, ended, cut, _ = env.receive()
            else:
                *_, ended, cut, _ = env.receive()
        if ended or cut:
            env.reset(i)
    return {
        "environment_steps_per_second": 1 / watch.median("step"),
        "step": watch.median("step"),
        "act": watch.median("act"),
        "wait_beside_update": watch.median("wait"),
        "update_beside_step": watch.median("update"),
    }


def main() -> None:
    """Measure the configuration that the command line describes."""
    config = compose(sys.argv[1:])
    device = choose_device(config.device)
    prepare_torch(config.threads, spare_core=config.env.overlap and device.type == "cpu")
    env = make_environment(config, remote=config.env.overlap)
    try:
        agent, replay = make_agent(config, env, device), make_replay(config, env, device)
        fill(replay, env, 4 * config.batch_size)
        environment = time_environment(config, env, agent, replay, device)
        report = {
            "task": config.task,
            "preset": config.preset,
            "batch_size": config.batch_size,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            **time_updates(config, agent, replay, device),
            "matmul_gflops": {str(t)[6:]: time_matmul(device, t) for t in (torch.float32, torch.bfloat16)},
            "environment": environment,
            "bytes_per_transition": replay.nbytes / config.replay.capacity,
        }
    finally:
        env.close()
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        if (status := explain(error, sys.argv[0])) is None:
            raise
        sys.exit(status)
