"""Evaluation against scripted environments."""

import gymnasium as gym
import numpy as np
import pytest

from curl_rl.run.evaluate import Interrupted, evaluate
from curl_rl.run.rollout import Lane
from curl_rl.run.seen import FrameStack
from curl_rl.run.video import Film
from curl_rl.types import Episode


class Scripted:
    """Episodes of 2 + seed % 3 steps whose rewards are the seed; frames count the steps."""

    action_space = gym.spaces.Discrete(3)

    def __init__(self):
        self.seeds: list[int] = []

    def reset(self, seed):
        self.seeds.append(seed)
        self.seed, self.age, self.pending = seed, 0, False
        return self.frame(), {}

    def frame(self):
        return np.full((1, 2, 2), self.age, np.uint8)

    def send(self, action):
        assert not self.pending
        self.pending = True

    def receive(self):
        assert self.pending
        self.pending = False
        self.age += 1
        return self.frame(), float(self.seed), False, self.age == 2 + self.seed % 3, {}

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)


class Watcher:
    """An agent that remembers what it was shown."""

    def __init__(self):
        self.seen: list[np.ndarray] = []

    def act(self, obs, *, explore):
        assert not explore
        self.seen.append(obs)
        return np.zeros((len(obs), 1), np.float32)


def lanes_of(*envs):
    return [Lane(env, FrameStack(3, "repeat")) for env in envs]


def test_every_seed_is_played_once_whatever_the_number_of_environments():
    seeds = [4, 9, 2, 7, 5]
    wanted = [Episode(i, float(seed * (2 + seed % 3)), 2 + seed % 3) for i, seed in enumerate(seeds)]
    for count in (1, 2, 3, 5, 8):
        envs = [Scripted() for _ in range(count)]
        assert evaluate(Watcher(), lanes_of(*envs), seeds) == wanted
        assert sorted(seed for env in envs for seed in env.seeds) == sorted(seeds)


def test_running_episodes_share_one_batch():
    agent = Watcher()
    evaluate(agent, lanes_of(Scripted(), Scripted()), [0, 2])  # 2 and 4 steps
    assert [len(obs) for obs in agent.seen] == [2, 2, 1, 1]
    assert agent.seen[1][:, :, 0, 0].tolist() == [[0, 0, 1], [0, 0, 1]]
    assert agent.seen[3][:, :, 0, 0].tolist() == [[1, 2, 3]]


def test_the_film_shows_the_first_episode_alone():
    film = Film()
    evaluate(Watcher(), lanes_of(Scripted(), Scripted()), [1, 2, 1], film=film)
    assert [picture[0, 0, 0] for picture in film.frames] == [0, 1, 2]
    assert film.frames[0].shape == (2, 2, 3)  # grey, as a picture


def test_an_episode_of_one_step_is_filmed_too():
    class Short(Scripted):
        def receive(self):
            return (*super().receive()[:3], True, {})

    film = Film()
    evaluate(Watcher(), lanes_of(Short()), [1, 2], film=film)
    assert [picture[0, 0, 0] for picture in film.frames] == [0]


def random_share(agent_action: int, epsilon: float, lanes: int) -> list[list[int]]:
    envs = [Scripted() for _ in range(lanes)]
    taken: dict[int, list[int]] = {seed: [] for seed in (2, 5, 8)}

    def keep(env):
        send = env.send
        env.send = lambda action: (taken[env.seed].append(int(action)), send(action))

    for env in envs:
        keep(env)
    agent = Watcher()
    agent.act = lambda obs, explore: np.full(len(obs), agent_action)
    evaluate(agent, lanes_of(*envs), [2, 5, 8], epsilon=epsilon)
    return list(taken.values())


def test_epsilon_mixes_in_random_actions_of_the_episodes_own_seed():
    always = random_share(7, 1.0, 1)
    assert all(0 <= action < 3 for actions in always for action in actions)
    assert always == random_share(7, 1.0, 3)
    assert always != [always[0]] * 3
    assert random_share(7, 0.0, 2) == [[7] * 4] * 3


def test_an_interruption_is_obeyed():
    calls = iter([False, False, True])
    agent = Watcher()
    with pytest.raises(Interrupted):
        evaluate(agent, lanes_of(Scripted()), [2, 2], interrupted=lambda: next(calls))
    assert len(agent.seen) == 2
