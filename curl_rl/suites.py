"""What the papers fix for each suite and task: action repeats, learning rates, frame stacks and task lists."""

from typing import NamedTuple

from curl_rl.types import ConfigError


class Suite(NamedTuple):
    """What all tasks of a suite share."""

    frame_stack: int
    padding: str  # what stands before an episode's first frame: "repeat" of it, or "zero"
    episode_frames: int  # simulator frames of an episode that its time limit ends
    fixed: dict[str, int]  # environment settings that the suite has no choice of


SUITES = {
    "dmc": Suite(frame_stack=3, padding="repeat", episode_frames=1000, fixed={}),
    "toy": Suite(frame_stack=2, padding="repeat", episode_frames=20, fixed={"camera": 0, "action_repeat": 1}),
}

# Hafner et al. 2019 (PlaNet), table 1; CURL's six (Laskin et al. 2020, table 1).
PLANET_SIX = (
    "dmc/finger_spin",
    "dmc/cartpole_swingup",
    "dmc/reacher_easy",
    "dmc/cheetah_run",
    "dmc/walker_walk",
    "dmc/ball_in_cup_catch",
)

# Laskin et al. 2020, table 3; the original code leaves them to its user.
_ACTION_REPEAT = {"dmc/finger_spin": 2, "dmc/walker_walk": 2, "dmc/cartpole_swingup": 8}
_LEARNING_RATE = {"dmc/cheetah_run": 2e-4}


def suite_of(task: str) -> str:
    """Return the suite of a task such as "dmc/cheetah_run". Raises ConfigError for a suite that is not here."""
    suite, slash, name = task.partition("/")
    if not slash or not name or suite not in SUITES:
        known = " or ".join(f"{suite}/..." for suite in SUITES)
        raise ConfigError(f"task={task!r} does not name a suite: write {known}, e.g. task=dmc/cheetah_run")
    return suite


def action_repeat(task: str) -> int:
    """Return the number of simulator frames for which the papers hold an action of this task."""
    return _ACTION_REPEAT.get(task, {"dmc": 4, "toy": 1}[suite_of(task)])


def learning_rate(task: str) -> float:
    """Return the published learning rate of this task."""
    return _LEARNING_RATE.get(task, 1e-3)


def replay_slots(task: str, transitions: int, action_repeat: int) -> int:
    """Return the frames that hold so many transitions: one each, and one more for each episode's end."""
    steps = max(1, SUITES[suite_of(task)].episode_frames // action_repeat)
    return transitions + transitions // steps + 2
