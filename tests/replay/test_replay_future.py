"""What followed each sampled transition, against a naive twin that keeps whole episodes as lists."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_replay import ENDS, EPISODE, Requested, feed, numbered, restored, small_replay

from curl_rl.types import Batch

RNG = np.random.default_rng
EPISODES = st.lists(EPISODE.map(lambda drawn: (*drawn[:2], *drawn[2])), min_size=1, max_size=7)


class Story:
    """Every frame ever given, in a list for each episode; nothing is forgotten, nothing is looked up by a slot."""

    def __init__(self, *, stack, padding):
        self.stack, self.padding = stack, padding
        self.frames, self.actions, self.rewards, self.where = [], [], [], []

    @property
    def written(self):
        return len(self.where)

    def begin(self, frame):
        self.frames.append([frame])
        self.actions.append([])
        self.rewards.append([])
        self.where.append((len(self.frames) - 1, 0))

    def add(self, action, reward, terminated, truncated, frame, *, life_lost=False):
        self.frames[-1].append(frame)
        self.actions[-1].append(action)
        self.rewards[-1].append(reward)
        self.where.append((len(self.frames) - 1, len(self.actions[-1])))

    def latest(self, slot, capacity):
        """Return the episode and the time of what was last written to a slot."""
        return [place for number, place in enumerate(self.where) if number % capacity == slot][-1]

    def observation(self, episode, time):
        frames = self.frames[episode]
        before = np.zeros_like(frames[0]) if self.padding == "zero" else frames[0]
        padded = [before] * (self.stack - 1) + frames
        return np.concatenate(padded[time : time + self.stack])

    def following(self, episode, time, horizon):
        """Return up to `horizon` triples of an action, its reward and the observation that it led to."""
        seen = range(time + 1, min(time + horizon + 1, len(self.frames[episode])))
        led = self.actions[episode], self.rewards[episode]
        return [(*(each[at - 1] for each in led), self.observation(episode, at)) for at in seen]


def assert_future(batch, story, capacity):
    """Compare every sample of a batch with what the twin knows to have followed."""
    horizon = batch.future.mask.shape[1]
    for row, slot in enumerate(batch.index.tolist()):
        place = story.latest(slot, capacity)
        expected = story.following(*place, horizon)
        known = len(expected)
        assert batch.future.mask[row].tolist() == [step < known for step in range(horizon)]
        assert batch.future.action[row, :known].tolist() == [action for action, *_ in expected]
        rewards = [np.float32(reward) for _, reward, _ in expected]
        assert batch.future.reward[row].tolist() == rewards + [0] * (horizon - known)
        for step, (*_, observation) in enumerate(expected):
            np.testing.assert_array_equal(batch.future.obs[row, step].numpy(), observation)
        np.testing.assert_array_equal(batch.obs[row].numpy(), story.observation(*place))
        assert int(batch.action[row]) == expected[0][0]


@settings(max_examples=50, deadline=None)
@given(
    shape=st.fixed_dictionaries(
        {"stack": st.integers(1, 4), "n_step": st.sampled_from([1, 3]), "padding": st.sampled_from(["repeat", "zero"])}
    ),
    horizon=st.integers(1, 5),
    spare=st.integers(0, 25),
    episodes=EPISODES,
)
def test_the_future_of_every_transition_is_the_twins(shape, horizon, spare, episodes):
    """Each end, lost lives, episodes cut off, rings that hold less than the horizon, and the newest transitions."""
    capacity = shape["stack"] + shape["n_step"] + spare
    sampler, story = Requested(capacity), Story(stack=shape["stack"], padding=shape["padding"])
    replay = small_replay(sampler, capacity=capacity, horizon=horizon, **shape)
    plain = small_replay(other := Requested(capacity), capacity=capacity, **shape)

    def check():
        assert sampler.members == other.members
        if not sampler.members:
            return
        sampler.request = other.request = sorted(sampler.members)
        batch, without = (each.sample(len(sampler.request), RNG(0)) for each in (replay, plain))
        assert_future(batch, story, capacity)
        assert without.future is None
        for name in set(Batch._fields) - {"future", "labels", "classes"}:  # the horizon changes nothing else
            assert torch.equal(getattr(batch, name), getattr(without, name)), name

    feed([replay, plain, story], episodes, check)


@settings(max_examples=40, deadline=None)
@given(
    spare=st.integers(0, 25),
    episodes=EPISODES,
)
def test_transitions_of_one_episode_share_its_name(spare, episodes):
    capacity = 3 + spare
    sampler, story = Requested(capacity), Story(stack=2, padding="zero")
    replay = small_replay(sampler, capacity=capacity, padding="zero", horizon=2)
    feed([replay, story], episodes)
    sampler.request = sorted(sampler.members)
    if not sampler.request:
        return
    named = replay.sample(len(sampler.request), RNG(0)).episode
    twins = torch.tensor([story.latest(slot, capacity)[0] for slot in sampler.request])
    assert torch.equal(named[:, None] == named, twins[:, None] == twins)


@pytest.mark.parametrize("end", sorted(ENDS))
def test_futures_by_hand(end):
    """Four steps, the second of which loses a life, then another episode; -1 is a blank frame."""
    sampler = Requested(20)
    replay = small_replay(sampler, horizon=3, padding="zero")
    replay.begin(numbered(0))
    for step in range(1, 5):
        ends = ENDS[end] if step == 4 else (False, False)
        replay.add(10 + step, step / 2, *ends, numbered(step), life_lost=step == 2)
    replay.begin(numbered(5))
    replay.add(16, 9.0, False, False, numbered(6))
    sampler.request = [0, 2, 3, 5]
    future = replay.sample(4, RNG(0)).future
    assert future.mask.tolist() == [[True] * 3, [True, True, False], [True, False, False], [True, False, False]]
    seen = (future.obs[..., 0, 0].int() - 1).tolist()
    assert seen[0] == [[0, 1], [1, 2], [2, 3]]
    assert seen[1][:2] == [[2, 3], [3, 4]]
    assert seen[2][:1] == [[3, 4]]
    assert seen[3][:1] == [[5, 6]]
    assert [row[:known] for row, known in zip(future.action.tolist(), (3, 2, 1, 1), strict=True)] == [
        [11, 12, 13], [13, 14], [14], [16],
    ]  # fmt: skip
    # Each by itself, whatever the discount, past a lost life too; those of another episode are 0.
    assert future.reward.tolist() == [[0.5, 1, 1.5], [1.5, 2, 0], [2, 0, 0], [9, 0, 0]]


def test_what_is_not_written_yet_becomes_known():
    sampler = Requested(20)
    replay = small_replay(sampler, horizon=3)
    replay.begin(numbered(0))
    sampler.request = [0]
    for step in range(1, 5):
        replay.add(step, 0.0, False, False, numbered(step))
        future = replay.sample(1, RNG(0)).future
        assert future.mask.sum() == min(step, 3)
        assert future.action[0, : min(step, 3)].tolist() == [1, 2, 3][:step]


def test_the_oldest_transition_of_a_full_ring_keeps_its_future():
    sampler = Requested(6)
    replay = small_replay(sampler, capacity=6, stack=1, horizon=5)
    replay.begin(numbered(0))
    for step in range(1, 16):
        replay.add(step, 0.0, False, False, numbered(step))
    sampler.request = sorted(sampler.members, key=lambda slot: (slot - 16) % 6)
    future = replay.sample(len(sampler.request), RNG(0)).future
    assert future.mask.sum(1).tolist() == [5, 4, 3, 2, 1]
    assert (future.obs[0, :, 0, 0, 0] - 1).tolist() == [11, 12, 13, 14, 15]
    assert future.action[0].tolist() == [11, 12, 13, 14, 15]


def test_old_frames_that_follow_in_the_ring_are_no_future():
    """The slots after the newest one hold the ages 2 to 5 of the episode before, as a continuation would."""
    sampler = Requested(6)
    replay = small_replay(sampler, capacity=6, stack=1, horizon=5)
    feed([replay], [(5, "truncated"), (1, "cut")])
    sampler.request = [0]
    future = replay.sample(1, RNG(0)).future
    assert future.mask.tolist() == [[True, False, False, False, False]]
    assert int(future.obs[0, 0, 0, 0, 0]) - 1 == 7


@pytest.mark.parametrize(("shape", "dtype"), [((), torch.int64), ((5,), torch.float32)], ids=["discrete", "continuous"])
def test_types_and_shapes_of_a_future(shape, dtype):
    options = {"obs_shape": (3, 6, 4), "stack": 4, "action_shape": shape, "action_dtype": dtype}
    replay = small_replay(horizon=2, **options)
    frame = np.zeros((3, 6, 4), np.uint8)
    replay.begin(frame)
    for step in range(9):
        replay.add(np.full(shape, step, np.int64 if dtype == torch.int64 else np.float32), 0.0, False, False, frame)
    future = replay.sample(8, RNG(0)).future
    assert {name: (tuple(value.shape), value.dtype) for name, value in future._asdict().items()} == {
        "obs": ((8, 2, 12, 6, 4), torch.uint8),
        "action": ((8, 2, *shape), dtype),
        "reward": ((8, 2), torch.float32),
        "mask": ((8, 2), torch.bool),
    }


def test_a_future_outlives_the_next_batch():
    replay = small_replay(horizon=3)
    feed([replay], [(15, "truncated")])
    rng = RNG(0)
    first = replay.sample(8, rng).future
    kept = [value.clone() for value in first]
    assert not torch.equal(replay.sample(8, rng).future.obs, kept[0])
    assert all(torch.equal(*pair) for pair in zip(first, kept, strict=True))


def test_a_restored_replay_knows_the_same_futures():
    def make():
        return small_replay(horizon=4, n_step=3, capacity=24)

    original = make()
    feed([original], [(7, "terminated", 2), (4, "cut"), (9, "truncated"), (5, "cut")])
    copy = restored([(original.written - 24, original.journal(0))], original.state_dict(), make)
    feed([original, copy], [(6, "cut")])
    one, two = (replay.sample(32, RNG(1)).future for replay in (original, copy))
    assert all(torch.equal(*pair) for pair in zip(one, two, strict=True))
    assert 0 < int(one.mask.sum()) < one.mask.numel()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("storage", ["cuda", "cpu"])
def test_cuda_futures_equal_cpu_ones_and_wait_for_nothing(storage):
    options = {"horizon": 3, "padding": "zero", "stack": 3}
    expected = small_replay(**options)
    replay = small_replay(device=torch.device("cuda"), storage=torch.device(storage), **options)
    feed([expected, replay], [(7, "terminated", 3), (4, "cut"), (9, "truncated")])
    rng, other = RNG(0), RNG(0)
    for _ in range(3):
        torch.cuda.set_sync_debug_mode("error")
        try:
            future = replay.sample(16, rng).future
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for one, two in zip(future, expected.sample(16, other).future, strict=True):
            assert torch.equal(one.cpu(), two)
