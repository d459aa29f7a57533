"""The episode in progress: what is seen, stored, kept and played again of it."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from curl_rl.run.rollout import Lane, Rollout, Step, random_action
from curl_rl.run.seeds import Purpose, derive_seed
from curl_rl.run.seen import FrameStack, Reward


class Scripted:
    """Frames of a seed's last digit and the episode's age; rewards of what was done; an end after four steps."""

    def __init__(self, *, shift: int = 0):
        self.seeds, self.shift = list[int](), shift

    def reset(self, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        self.seeds.append(seed)
        self.age = 0
        return self.frame(), {"labels": np.full((1, 1), 9, np.uint8)}

    def frame(self) -> np.ndarray:
        return np.array([[[self.seeds[-1] % 10, self.age + self.shift]]], np.uint8)

    def send(self, action: Any) -> None:
        self.action = action

    def receive(self) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.age += 1
        return self.frame(), 2.5 * self.action, self.age == 4, False, {"life_lost": self.age == 2}


class Stored:
    """What a replay was given."""

    def __init__(self):
        self.calls = list[tuple]()

    def begin(self, frame, labels=None):
        self.calls.append(("begin", frame.ravel().tolist(), labels))

    def add(self, action, reward, terminated, truncated, frame, *, life_lost, labels):
        self.calls.append((action, reward, terminated, truncated, frame.ravel().tolist(), life_lost, labels))


def rollout(env: Any, replay: Any, **options: Any) -> Rollout:
    return Rollout(env, FrameStack(2, "repeat"), replay, seed=5, **{"learned": Reward(), **options})


def seed(index: int) -> int:
    return derive_seed(5, Purpose.TRAINING, index)


@pytest.mark.parametrize(("padding", "first"), [("repeat", [7, 7, 7]), ("zero", [0, 0, 7])])
def test_a_stack_begins_with_its_padding_and_forgets_the_last_episode(padding, first):
    stack = FrameStack(3, padding)
    for _ in range(2):
        stack.reset(np.full((1, 1, 1), 7, np.uint8))
        assert stack.observation().ravel().tolist() == first
        stack.push(np.full((1, 1, 1), 8, np.uint8))
        assert stack.observation().ravel().tolist() == [*first[1:], 8]


def test_random_actions_fit_their_space():
    rng = np.random.default_rng(0)
    drawn = [random_action(gym.spaces.Discrete(3), rng) for _ in range(200)]
    assert set(drawn) == {0, 1, 2}
    assert all(isinstance(action, np.int64) for action in drawn)
    moves = np.stack([random_action(gym.spaces.Box(-1, 1, (2,), np.float32), rng) for _ in range(200)])
    assert moves.dtype == np.float32
    assert moves.min() < -0.9
    assert moves.max() > 0.9


@pytest.mark.parametrize("ends", [(True, False), (False, True), (True, True)])
def test_a_step_is_over_where_the_episode_is(ends):
    assert Step(np.zeros(1), 0.0, *ends, {}).over
    assert not Step(np.zeros(1), 0.0, False, False, {}).over


def test_a_lane_knows_its_episode():
    lane = Lane(Scripted(), FrameStack(2, "zero"))  # type: ignore[arg-type]
    for index in (3, 4):
        lane.reset(17, index)
        assert (lane.index, lane.score, lane.actions) == (index, 0.0, [])
        assert lane.stack.observation()[:, 0].tolist() == [[0, 0], [7, 0]]
        for action in (1, 2):
            lane.send(action)
            step = lane.receive()
        assert (lane.score, lane.actions, step.over) == (7.5, [1, 2], False)
        assert lane.stack.observation()[:, 0].tolist() == [[7, 1], [7, 2]]


def test_what_a_run_plays_is_stored_with_its_rewards_clipped_and_its_score_is_not():
    env, replay = Scripted(), Stored()
    played = rollout(env, replay, learned=Reward(bound=1.0))
    for index in range(2):
        played.begin(index)
        over = []
        for action in (0, 1, -1, 0.2):
            played.send(action)
            over.append(played.receive().over)
        assert over == [False, False, False, True]
        assert played.score == pytest.approx(0.5)
    assert env.seeds == [seed(0), seed(1)]
    last = seed(1) % 10
    begun, *steps = replay.calls[5:]
    assert begun == ("begin", [last, 0], 9)
    assert steps == [
        (0, 0.0, False, False, [last, 1], False, None),
        (1, 1.0, False, False, [last, 2], True, None),
        (-1, -1.0, False, False, [last, 3], False, None),
        (0.2, 0.5, True, False, [last, 4], False, None),
    ]


def test_rewards_are_stored_as_they_are_where_nothing_clips_them():
    replay = Stored()
    played = rollout(Scripted(), replay)
    played.begin(0)
    played.send(3)
    played.receive()
    assert replay.calls[1][1] == 7.5


def interrupted(env: Any) -> tuple[Rollout, dict[str, Any]]:
    """Return a rollout in its third episode, and its state there."""
    played = rollout(env, Stored())
    played.begin(2)
    for action in (1.0, 3.0):
        played.send(np.float32(action))
        played.receive()
    return played, played.state_dict()


def test_a_start_without_a_state_begins_the_first_episode():
    env, replay = Scripted(), Stored()
    rollout(env, replay).start(None)
    assert env.seeds == [seed(0)]
    assert len(replay.calls) == 1


def test_a_start_from_a_state_plays_the_episode_again_and_stores_nothing_twice(capsys):
    before, state = interrupted(Scripted())
    assert {name: value for name, value in state.items() if name in ("index", "score")} == {"index": 2, "score": 10.0}
    assert torch.equal(state["actions"], torch.tensor([1.0, 3.0]))
    env, replay = Scripted(), Stored()
    played = rollout(env, replay)
    played.start(state)
    assert (env.seeds, replay.calls, capsys.readouterr().err) == ([seed(2)], [], "")
    assert (played.index, played.score, played.actions) == (before.index, before.score, before.actions)
    assert np.array_equal(played.stack.observation(), before.stack.observation())
    again = played.state_dict()
    assert all(torch.equal(again[name], state[name]) for name in ("actions", "frame"))
    played.send(np.float32(1))
    played.receive()
    assert len(replay.calls) == 1


def test_a_state_is_of_its_moment():
    played, state = interrupted(Scripted())
    played.send(np.float32(1))
    played.receive()
    assert len(state["actions"]) == 2
    assert state["frame"].ravel().tolist() == [seed(2) % 10, 2]


def test_an_environment_that_does_not_repeat_itself_is_told_of(capsys):
    _, state = interrupted(Scripted())
    rollout(Scripted(shift=1), Stored()).start(state)
    assert "did not repeat the interrupted episode bit for bit" in capsys.readouterr().err
    rollout(Scripted(), Stored()).start({**state, "score": 9.5})
    assert "not exactly as it would have" in capsys.readouterr().err


def test_an_episode_interrupted_before_its_first_step_starts_again(capsys):
    played = rollout(Scripted(), Stored())
    played.begin(1)
    env = Scripted()
    rollout(env, Stored()).start(played.state_dict())
    assert (env.seeds, capsys.readouterr().err) == ([seed(1)], "")
