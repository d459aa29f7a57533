"""What the papers fix for each suite and task: repeats, stacks, learning rates, objectives, task lists, scores."""

from collections.abc import Callable
from typing import Any, NamedTuple

from curl_rl.options import LONGEST
from curl_rl.types import ConfigError

# Hafner et al. 2019 (PlaNet), table 1; CURL's six (Laskin et al. 2020, table 1).
PLANET_SIX = (
    "dmc/finger_spin",
    "dmc/cartpole_swingup",
    "dmc/reacher_easy",
    "dmc/cheetah_run",
    "dmc/walker_walk",
    "dmc/ball_in_cup_catch",
)

# The 26 games of Kaiser et al. 2020 (SimPLe), with the scores of random play and of a human tester that Agarwal et al.
# 2021 (rliable) normalise by.
ATARI_SCORES = {
    "atari/alien": (227.8, 7127.7),
    "atari/amidar": (5.8, 1719.5),
    "atari/assault": (222.4, 742.0),
    "atari/asterix": (210.0, 8503.3),
    "atari/bank_heist": (14.2, 753.1),
    "atari/battle_zone": (2360.0, 37187.5),
    "atari/boxing": (0.1, 12.1),
    "atari/breakout": (1.7, 30.5),
    "atari/chopper_command": (811.0, 7387.8),
    "atari/crazy_climber": (10780.5, 35829.4),
    "atari/demon_attack": (152.1, 1971.0),
    "atari/freeway": (0.0, 29.6),
    "atari/frostbite": (65.2, 4334.7),
    "atari/gopher": (257.6, 2412.5),
    "atari/hero": (1027.0, 30826.4),
    "atari/jamesbond": (29.0, 302.8),
    "atari/kangaroo": (52.0, 3035.0),
    "atari/krull": (1598.0, 2665.5),
    "atari/kung_fu_master": (258.5, 22736.3),
    "atari/ms_pacman": (307.3, 6951.6),
    "atari/pong": (-20.7, 14.6),
    "atari/private_eye": (24.9, 69571.3),
    "atari/qbert": (163.9, 13455.0),
    "atari/road_runner": (11.5, 7845.0),
    "atari/seaquest": (68.4, 42054.7),
    "atari/up_n_down": (533.4, 11693.2),
}

_CHOICES = {"agent": "sac", "augmentation": "shift", "encoder": "strided", "objective": "curl"}
_COLOUR = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.5}
_DISTRACTIONS = ("distraction", "distraction_intensity", "distraction_dynamic")
_PLAIN = {"coefficient": 1.0, "logit_scale": 1.0, "projection_dim": 0, "initial_weight": "identity"}


class Scale(NamedTuple):
    """How scores of a suite's tasks are made comparable."""

    name: str
    plural: str
    ends: Callable[[str], tuple[float, float] | None]  # the scores of a task that count as 0 and as 1
    missing: str  # what to say of tasks that have none


class Suite(NamedTuple):
    """What all tasks of a suite share; what a named protocol of its environments states is not repeated here."""

    title: str
    settings: tuple[str, ...]  # environment settings that its environments take
    fixed: dict[str, Any]  # environment settings that it has no choice of; those that it does not take are so too
    episode_frames: int  # simulator frames of an episode that its time limit ends; for Atari of a short game
    longest_frames: int = 1000  # after which an episode is cut that has no end of its own, such as those of lqr
    action_repeat: int = 1
    frame_stack: int = 1
    padding: str = "repeat"  # what stands before an episode's first frame: "repeat" of it, or "zero"
    preset: str = "quick"  # the one to start from, where there are any in configs/preset/<suite>
    choices: dict[str, str] = _CHOICES  # the same of the groups
    labels: str = "segmentation"  # where an objective of pixels finds its classes: the simulator's, or none: "offset"
    objective: dict[str, Any] = _PLAIN  # what an objective uses where a configuration says null: the original's but W
    augmentation: dict[str, Any] = _COLOUR  # the same of an augmentation: RAD's, DrQ(eps)'s intensity of grey frames
    grey: bool = False
    views: tuple[str, ...] = ("pixels", "state")  # what env.obs may be
    discrete: str = ""  # the preset to start from where the actions turn out to be discrete
    scale: Scale | None = None
    budget_in_steps: bool = False  # whether budgets are told in agent steps too


SUITES = {
    "dmc": Suite(
        title="DeepMind Control",
        settings=("obs", "image_size", "camera", "action_repeat", *_DISTRACTIONS),
        fixed={},
        episode_frames=1000,
        action_repeat=4,
        frame_stack=3,
        scale=Scale("score / 1000", "score / 1000", lambda _: (0.0, 1000.0), ""),  # its best return by construction
    ),
    "toy": Suite(
        title="Toy tasks",
        settings=("obs", "image_size"),
        fixed={"action_repeat": 1},
        episode_frames=20,
        frame_stack=2,
    ),
    "atari": Suite(
        title="Atari",
        settings=("obs", "image_size", "protocol"),
        fixed={"obs": "pixels", "reward_clip": 0.0, "reward_scale": 1.0},
        episode_frames=400,
        longest_frames=108_000,
        preset="efficient",
        choices={"agent": "rainbow", "augmentation": "crop_shift", "encoder": "data_efficient", "objective": "curl"},
        labels="offset",
        objective={"coefficient": 1.0, "logit_scale": 0.1, "projection_dim": 128, "initial_weight": "uniform"},
        augmentation={"brightness": 0.1, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
        grey=True,
        scale=Scale(
            "human-normalised score",
            "human-normalised scores",
            ATARI_SCORES.get,
            "no human-normalised score: it is known of the 26 games of Atari-100K alone",
        ),
        budget_in_steps=True,
    ),
    "gym": Suite(  # what Gymnasium's registry or a module of the user's own has
        title="Environments of one's own",
        settings=("obs", "image_size", "key", "action_repeat", "max_steps"),
        fixed={},
        episode_frames=100,
        longest_frames=LONGEST,  # they have a limit of their own, or are given one
        frame_stack=3,
        labels="offset",
        views=("pixels", "state", "render"),
        discrete="rainbow",
    ),
}

# Laskin et al. 2020, table 3; the original code leaves them to its user.
_ACTION_REPEAT = {"dmc/finger_spin": 2, "dmc/walker_walk": 2, "dmc/cartpole_swingup": 8}
_LEARNING_RATE = {"dmc/cheetah_run": 2e-4}
# The original code's; the paper names 0.05 for all games.
_COEFFICIENT = {"atari/pong": 0.01, "atari/boxing": 0.01, "atari/private_eye": 0.01, "atari/freeway": 0.01}


def suite_of(task: str) -> str:
    """Return the suite of a task such as "dmc/cheetah_run". Raises ConfigError for a suite that is not here."""
    if is_open(task):
        return "gym"
    suite, _, name = task.partition("/")
    if not name or suite not in SUITES:
        raise ConfigError(f"task={task!r} does not name a suite: write {task_forms()}, e.g. task=dmc/cheetah_run")
    return suite


def task_forms() -> str:
    """Return how tasks are named, as a part of a line."""
    return f"{', '.join(f'{suite}/...' for suite in SUITES)} or package.module:Class"


def is_open(task: str) -> bool:
    """Return whether a task is of the suite that lists none of its own."""
    suite, _, name = task.partition("/")
    return ":" in suite or (suite in ("gym", "own") and bool(name))


def action_repeat(task: str) -> int:
    """Return the simulator frames for which the papers hold an action of this task, where no protocol states it."""
    return _ACTION_REPEAT.get(task, SUITES[suite_of(task)].action_repeat)


def learning_rate(task: str) -> float:
    """Return the published learning rate of this task."""
    return _LEARNING_RATE.get(task, 1e-3)


def objective_defaults(task: str) -> dict[str, Any]:
    """Return what an objective's null options stand for in this task, by the name of the option."""
    suite = SUITES[suite_of(task)]
    coefficient = _COEFFICIENT.get(task, suite.objective["coefficient"])
    return {**suite.objective, "coefficient": coefficient, "labels": suite.labels}


def replay_slots(task: str, transitions: int, action_repeat: int) -> int:
    """Return the frames that hold so many transitions: one each, and one more for each episode's end."""
    steps = max(1, SUITES[suite_of(task)].episode_frames // action_repeat)
    return transitions + transitions // steps + 2


def longest_steps(task: str, action_repeat: int) -> int:
    """Return the agent steps after which an episode of this task is cut, as every longer one is."""
    return -(-SUITES[suite_of(task)].longest_frames // action_repeat)
