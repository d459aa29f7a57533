"""Plays episodes with an agent that does not explore and does not learn."""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from curl_rl.run.rollout import Lane, random_action
from curl_rl.run.video import Camera
from curl_rl.types import Acting, Episode


class Interrupted(Exception):  # noqa: N818 - a request, not an error
    """The caller asked for a stop before the last episode ended."""


def evaluate(
    agent: Acting,
    lanes: Sequence[Lane],
    seeds: Sequence[int],
    *,
    epsilon: float = 0.0,
    film: Camera | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> list[Episode]:
    """Play one episode a seed, as many at once as there are lanes.

    The agent acts for all running episodes in one batch, but for a share `epsilon` of random actions, drawn from each
    episode's own seed: a result does not depend on how many run at once. `film` receives the first episode, from its
    first observation to the last that was acted upon.
    Returns the episodes in the order of their seeds; raises Interrupted once `interrupted()` says so.
    """
    rngs = [np.random.default_rng(seed) for seed in seeds]
    waiting = deque((seed, index) for index, seed in enumerate(seeds))
    lanes = list(lanes[: len(seeds)])
    for lane in lanes:
        lane.reset(*waiting.popleft())
    episodes: list[Episode] = []
    while lanes:
        if interrupted():
            raise Interrupted
        if film is not None and lanes[0].index == 0:
            film.add(lambda: _picture(lanes[0]))
        actions = agent.act(np.stack([lane.stack.observation() for lane in lanes]), explore=False)
        for lane, action in zip(lanes, actions, strict=True):
            rng = rngs[lane.index]
            lane.send(random_action(lane.env.action_space, rng) if epsilon and rng.random() < epsilon else action)
        # Every step is received before any environment is reset: none is left with an answer unread.
        for lane in [lane for lane in lanes if lane.receive().over]:
            episodes.append(Episode(lane.index, lane.score, len(lane.actions)))
            if waiting:
                lane.reset(*waiting.popleft())
            else:
                lanes.remove(lane)
    return sorted(episodes)


def _picture(lane: Lane) -> np.ndarray:
    frame = lane.stack.frames[-1]
    if frame.ndim != 3:
        return lane.env.render()
    shown = frame[:3]  # of four channels the fourth is no colour
    return np.broadcast_to(shown.transpose(1, 2, 0), (*shown.shape[1:], 3))
