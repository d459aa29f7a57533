"""Measures a configuration's speed and prints JSON: python scripts/speed.py preset=paper batch_size=128 device=cpu.

With `--against` it times another commit of the project, or an original in a folder, beside this tree.
"""

import argparse
import json
import shlex
import signal
import sys
from typing import Any

import numpy as np
import torch
from race import race
from stopwatch import Stopwatch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from curl_rl.cli import explain
from curl_rl.commands.arguments import whole
from curl_rl.config.overrides import compose
from curl_rl.config.schema import Config
from curl_rl.nn import beside
from curl_rl.nn.encoders.stack import has_bf16
from curl_rl.replay.replay import Replay
from curl_rl.run.assembly import make_agent, make_environment, make_replay, make_rollout
from curl_rl.run.device import choose_device, prepare_torch
from curl_rl.run.provenance import make_origin, surroundings
from curl_rl.run.rollout import Lane, random_action
from curl_rl.run.seen import FrameStack
from curl_rl.run.threads import choose_threads, fill
from curl_rl.types import Environment

WARMUP, UPDATES, STEPS = 4, 24, 60  # whole steps come first


def _count_convolution(x: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return conv_flop_count(x, weight, out_shape)


def time_updates(config: Config, agent: Any, replay: Replay, device: torch.device) -> dict[str, Any]:
    """Time whole updates undisturbed, then their stages, and count one's floating-point operations."""
    rng = np.random.default_rng(0)
    watch = Stopwatch(device)
    for _ in range(WARMUP):
        agent.update(replay.sample(config.batch_size, rng, agent.n_step, agent.discount))
    for _ in watch.repeat(UPDATES):
        with watch.timing("total"):
            agent.update(replay.sample(config.batch_size, rng, agent.n_step, agent.discount))
    fused = {torch.ops.mkldnn._convolution_pointwise: _count_convolution}
    used = beside.threads()
    beside.use_threads(1)  # what another thread does is not counted
    # Captured graphs hide theirs: counted where eager.
    with FlopCounterMode(display=False, custom_mapping=fused) as counter:
        for _ in range(2):
            agent.update(replay.sample(config.batch_size, rng, agent.n_step, agent.discount))
    beside.use_threads(used)
    for optimizer in agent.optimizers.values():
        optimizer.step = watch.wrap("optimizer_part", optimizer.step)
    for name in ("draw", "views"):  # in which images are augmented
        setattr(agent.learner, name, watch.wrap("crop_part", getattr(agent.learner, name)))
    for _ in watch.repeat(UPDATES):
        with watch.timing("sample"):
            batch = replay.sample(config.batch_size, rng, agent.n_step, agent.discount)
        with watch.timing("update"):
            agent.update(batch)
    timed = len(watch.seconds["update"])
    parts = {name: sum(watch.seconds[f"{name}_part"]) / timed for name in ("crop", "optimizer")}
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


def precisions(device: torch.device) -> list[torch.dtype]:
    """Return those that the device has instructions for: without any, a product in bf16 takes minutes."""
    return [torch.float32, *([torch.bfloat16] if device.type == "cuda" or has_bf16() else [])]


def time_matmul(device: torch.device, dtype: torch.dtype) -> float:
    """Return the GFLOP/s of a 2048-cubed matrix product."""
    watch = Stopwatch(device)
    a, b, out = (torch.randn(2048, 2048, device=device, dtype=dtype) for _ in range(3))
    for _ in range(10):
        with watch.timing("product"):
            torch.mm(a, b, out=out)
    return 2 * 2048**3 / 1e9 / watch.median("product")


def time_environment(env: Environment, device: torch.device) -> float:
    """Return the seconds of a step of the environment alone."""
    rng, watch, lane = np.random.default_rng(0), Stopwatch(device), Lane(env, FrameStack(1, "repeat"))
    lane.reset(0)
    for i in range(STEPS):
        with watch.timing("step"):
            lane.send(random_action(env.action_space, rng))
            over = lane.receive().over
        if over:
            lane.reset(i)
    return watch.median("step")


def time_steps(config: Config, env: Environment, agent: Any, replay: Replay, device: torch.device) -> dict[str, float]:
    """Time whole steps as the trainer takes them, an update each; `environment` is what is waited for it."""
    rng, watch = np.random.default_rng(0), Stopwatch(device)
    env.receive = watch.wrap("environment", env.receive)
    replay.add = watch.wrap("store", replay.add)
    rollout = make_rollout(config, env, replay)
    rollout.begin(0)
    for _ in watch.repeat(STEPS):
        with watch.timing("total"):
            with watch.timing("act"):
                action = agent.act(rollout.stack.observation()[None], explore=True)[0]
            rollout.send(action)
            with watch.timing("sample"):
                batch = replay.sample(config.batch_size, rng, agent.n_step, agent.discount)
            with watch.timing("update"):
                result = agent.update(batch)
            with watch.timing("priorities"):
                if result.priorities is not None:
                    replay.update_priorities(batch.index, result.priorities)
            over = rollout.receive().over
        if over:
            rollout.begin(rollout.index + 1)
    return {name: watch.median(name) for name in watch.seconds}


def measure(config: Config) -> dict[str, Any]:
    """Return the times of a configuration, and what they were taken with."""
    device = choose_device(config.device)
    prepare_torch(config.threads)
    env = make_environment(config)
    try:
        config, _ = choose_threads(config, env, device)
        agent, replay = make_agent(config, env, device), make_replay(config, env, device)
        fill(replay, env, 4 * config.batch_size)
        origin = make_origin(surroundings(), "", 0)
        return {
            "commit": origin.commit,
            "versions": origin.versions,
            "hardware": origin.hardware,
            "task": config.task,
            "preset": config.preset,
            "batch_size": config.batch_size,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": beside.threads(),
            "environment_step_alone": time_environment(env, device),
            "seconds_per_agent_step": time_steps(config, env, agent, replay, device),
            **time_updates(config, agent, replay, device),
            "matmul_gflops": {str(t)[6:]: time_matmul(device, t) for t in precisions(device)},
            "bytes_per_transition": replay.nbytes / config.replay.capacity,
        }
    finally:
        env.close()


def main() -> None:
    """Measure the configuration that the command line describes, alone or beside another tree."""
    parser = argparse.ArgumentParser(prog="speed.py", description="Time updates, agent steps and the environment.")
    parser.add_argument("--against", metavar="COMMIT|FOLDER", help="time this commit, or this original's clone, beside")
    parser.add_argument("--rounds", type=whole(1, 1000), help="how often each of the two is run (default: 5)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    if arguments.rounds and arguments.against is None:
        parser.error("--rounds counts those of a comparison: add --against, or leave it out")
    config = compose(arguments.overrides)
    if arguments.against is None:
        report = measure(config)
    else:
        report = race(arguments.against, config, arguments.overrides, arguments.rounds or 5)
    print(json.dumps({"command": shlex.join(["python", "scripts/speed.py", *sys.argv[1:]]), **report}, indent=2))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing is left behind then either
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if (status := explain(error, "speed.py")) is None:
            raise
        sys.exit(status)
