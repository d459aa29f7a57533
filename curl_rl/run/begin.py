"""What a run begins with: another's agent, demonstrations, and what is written down of it."""

from collections.abc import Mapping
from typing import Any

from curl_rl.config.schema import Config
from curl_rl.replay.replay import Replay
from curl_rl.run.branch import Branch
from curl_rl.run.preload import preload
from curl_rl.run.stored import make_protocol
from curl_rl.types import Agent, Environment


def begin(config: Config, branch: Branch | None, env: Environment, agent: Agent, replay: Replay) -> dict[str, Any]:
    """Take what a run starts from; return what metadata.json says of it. A resume has it in its checkpoint."""
    told = dict[str, Any]()
    if branch is not None:
        branch.give(agent)
        told["from_run"] = branch.told
    if config.replay.preload:
        told["preload"] = preload(config, env, replay)
    return told


def describe_run(config: Config, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what metadata.json says of a run at each of its starts; `pretrained` is a hash of the weights."""
    return {"seed": config.seed, "protocol": make_protocol(config), "pretrained": identity.get("pretrained")}
