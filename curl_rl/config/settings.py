"""The settings of a run that belong to no class chosen by name: environment, replay, evaluation, checkpoints, logs."""

from dataclasses import dataclass

from curl_rl.envs import INTENSITIES
from curl_rl.options import LONGEST, option
from curl_rl.replay.samplers import SAMPLERS


@dataclass(frozen=True)
class EnvConfig:
    obs: str = option(
        "pixels",
        "what the agent sees; state: the control of preset=state; render: what an environment of one's own draws",
        one_of=("pixels", "state", "render"),
    )
    image_size: int = option(100, "side of the rendered image, before the crop", at_least=1, at_most=1024)
    camera: int = option(0, "number of the simulator's camera", at_least=-1, at_most=1000)
    action_repeat: int = option(0, "frames that an action is held for; 0: the papers' value", at_least=0, at_most=1000)
    key: str = option("", "which one of a Dict of observations; of gym/<id> and module:Class")
    max_steps: int = option(
        0,
        "steps after which an episode of these is truncated; 0: its own limit, or 10,000",
        at_least=0,
        at_most=LONGEST,
    )
    reward_scale: float = option(1.0, "factor of the rewards that are learned from, not of returns", above=0)
    reward_clip: float = option(0.0, "bound of such a reward once scaled; 0: none, or the protocol's", at_least=0)
    frame_stack: int = option(0, "frames in one observation; 0: the papers' value", at_least=0, at_most=64)
    protocol: str = option("", "how Atari is played: atari100k, atari100k_linear or sticky; empty elsewhere")
    distraction: str = option("", "what changes in what is seen: color, camera, video:FOLDER, joined by +; dmc only")
    distraction_intensity: str = option("easy", "how far", one_of=tuple(INTENSITIES), where="distraction")
    distraction_dynamic: bool = option(True, "from frame to frame, not from episode to episode", where="distraction")
    timeout: float = option(
        60.0, "seconds until a hanging render starts anew", above=0, at_most=86_400, where="overlap=true"
    )
    overlap: bool = option(True, "step the environment in its own process while the update runs; same results")


@dataclass(frozen=True)
class ReplayConfig:
    capacity: int = option(0, "transitions kept; 0: as many as the budget gives", at_least=0, at_most=LONGEST)
    device: str = option(
        "auto", "where frames are kept; auto: with the agent if they fit", one_of=("auto", "cpu", "cuda")
    )
    preload: str = option("", "recordings whose transitions it begins with: an .npz file, or a folder of some")
    sampler: str = option("uniform", "how slots are drawn; prioritized: by the agent's reports", one_of=tuple(SAMPLERS))
    exponent: float = option(0.5, "of the priorities; 0: uniform", at_least=0, at_most=1, where="sampler=prioritized")
    beta: float = option(
        0.4, "of the importance weights at the start", at_least=0, at_most=1, where="sampler=prioritized"
    )
    last_beta: float = option(1.0, "the same at the end", at_least=0, at_most=1, where="sampler=prioritized")


@dataclass(frozen=True)
class EvaluationConfig:
    every_frames: int = option(10_000, "simulator frames from one evaluation to the next", at_least=1, at_most=LONGEST)
    episodes: int = option(10, "episodes of one evaluation", at_least=1, at_most=10_000)
    final_episodes: int = option(0, "episodes of the last evaluation; 0: as many", at_least=0, at_most=10_000)
    epsilon: float = option(0.0, "share of random actions in evaluation", at_least=0, at_most=1)
    workers: int = option(0, "processes that evaluate; 0: as many as help", at_least=0, at_most=256)
    video: bool = option(True, "keep a video of each evaluation's first episode")


@dataclass(frozen=True)
class CheckpointConfig:
    every_frames: int = option(10_000, "simulator frames from one checkpoint to the next", at_least=1, at_most=LONGEST)
    keep: str = option("last", "last two; of the best evaluation besides; or all", one_of=("last", "best", "all"))


@dataclass(frozen=True)
class LogConfig:
    every_updates: int = option(100, "updates from one row of metrics to the next", at_least=1, at_most=LONGEST)
    wandb: bool = option(False, "tell Weights & Biases too: pip install 'curl-rl[wandb]'")
    mlflow: bool = option(False, "tell MLflow too: pip install 'curl-rl[mlflow]'")


@dataclass(frozen=True)
class PretrainedConfig:
    path: str = option("", "folder of an encoder to start from, whose architecture the run takes")
    freeze: bool = option(False, "keep that encoder as it is", where="path")
