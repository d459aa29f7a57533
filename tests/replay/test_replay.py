"""The replay against a naive twin (lists of episodes), the original's n-step batches, and its own checkpoints."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import DATA

from curl_rl.nn.cudagraph import tensors
from curl_rl.replay.replay import Replay
from curl_rl.replay.samplers import PrioritizedSampler, UniformSampler
from curl_rl.run import memory
from curl_rl.run.checkpoint import Checkpoints
from curl_rl.run.memory import choose_storage, predict_bytes
from curl_rl.types import ConfigError

CPU = torch.device("cpu")
ENDS = {"terminated": (True, False), "truncated": (False, True), "both": (True, True), "cut": (False, False)}
DMC = {"obs_shape": (3, 100, 100), "obs_dtype": torch.uint8, "action_shape": (6,), "action_dtype": torch.float32}


class Requested:
    """A sampler that draws what a test asks for, and knows what it may draw."""

    bytes_per_slot = 0

    def __init__(self, capacity):
        self.capacity = capacity
        self.members = set()
        self.request = []

    def __len__(self):
        return len(self.members)

    def add(self, index):
        assert index not in self.members
        self.members.add(index)

    def remove(self, index):
        self.members.remove(index)

    def sample(self, batch_size, rng):
        assert set(self.request) <= self.members
        return np.array(self.request, np.int64), np.linspace(0, 1, batch_size, dtype=np.float32)


class Twin:
    """Episodes as plain lists; every question is answered by looking through all of them."""

    def __init__(self, *, capacity, stack, padding, n_step, discount):
        self.capacity, self.stack, self.padding, self.n_step, self.discount = capacity, stack, padding, n_step, discount
        self.episodes = []
        self.written = 0

    def begin(self, frame):
        episode = {"first": self.written, "frames": [frame], "actions": [], "rewards": [], "lost": [], "end": None}
        self.episodes.append(episode)
        self.written += 1

    def add(self, action, reward, terminated, truncated, frame, *, life_lost=False):
        episode = self.episodes[-1]
        episode["frames"].append(frame)
        episode["actions"].append(action)
        episode["rewards"].append(reward)
        if terminated or truncated:
            episode["end"] = "terminated" if terminated or life_lost else "truncated"
        elif life_lost:
            episode["lost"].append(len(episode["actions"]))
        self.written += 1

    def observation(self, episode, time):
        frames = []
        for age in range(time - self.stack + 1, time + 1):
            blank = np.zeros_like(episode["frames"][0]) if self.padding == "zero" else episode["frames"][0]
            frames.append(episode["frames"][age] if age >= 0 else blank)
        return np.concatenate(frames)

    def transitions(self):
        """Return {slot: (obs, action, reward, discount, next_obs)} of all that can be sampled."""
        found = {}
        for number, episode in enumerate(self.episodes):
            steps = len(episode["actions"])
            over = episode["end"] is not None or number < len(self.episodes) - 1
            for time in range(steps):
                lost = [at for at in episode["lost"] if at > time]
                stop = lost[0] if lost else steps
                taken = min(self.n_step, stop - time)
                oldest = episode["first"] + max(0, time - self.stack + 1)
                if (taken < self.n_step and not (over or lost)) or oldest < self.written - self.capacity:
                    continue
                reward = sum(self.discount**i * episode["rewards"][time + i] for i in range(taken))
                terminal = (lost or episode["end"] == "terminated") and time + taken == stop
                found[(episode["first"] + time) % self.capacity] = (
                    self.observation(episode, time),
                    episode["actions"][time],
                    reward,
                    0 if terminal else self.discount**taken,
                    self.observation(episode, time + taken),
                )
        return found

    def number(self, slot):
        """Return how many slots were written before what the slot holds now."""
        return self.written - 1 - (self.written - 1 - slot) % self.capacity


class Asking(Replay):
    """A replay that is always asked for the same returns."""

    def __init__(self, *, n_step, discount, **options):
        super().__init__(n_step=n_step, **options)
        self.returns = n_step, discount

    def sample(self, batch_size, rng):
        return super().sample(batch_size, rng, *self.returns)


def small_replay(sampler=None, **changes):
    options = {
        "capacity": 20,
        "obs_shape": (1, 2, 1),
        "obs_dtype": torch.uint8,
        "action_shape": (),
        "action_dtype": torch.int64,
        "stack": 2,
        "padding": "repeat",
        "n_step": 1,
        "discount": 0.5,
        "device": CPU,
    } | changes
    return Asking(sampler=UniformSampler(options["capacity"]) if sampler is None else sampler, **options)


def numbered(number):
    """A frame that names its number, never blank."""
    return np.array([1 + number % 200, 1 + number // 200], np.uint8).reshape(1, 2, 1)


def feed(replays, episodes, check=lambda: None):
    """Play the same episodes (length, end, *steps that lose a life) of numbered frames into all replays."""
    for length, end, *lost in episodes:
        for replay in replays:
            replay.begin(numbered(replay.written))
        check()
        for step in range(length):
            terminated, truncated = ENDS[end] if step == length - 1 else (False, False)
            for replay in replays:
                number = replay.written  # halves and quarters add up exactly
                step_data = number % 7, (number % 9 - 4) / 4, terminated, truncated, numbered(number)
                replay.add(*step_data, life_lost=step in lost)
            check()


def assert_same(batch, other):
    for name, value in batch._asdict().items():
        torch.testing.assert_close(value, getattr(other, name), rtol=0, atol=0, msg=lambda text, name=name: name + text)


def assert_rows(batch, rows):
    for value, column in zip(batch[:5], zip(*rows, strict=True), strict=True):
        np.testing.assert_array_equal(value.numpy(), np.stack(column).astype(value.numpy().dtype))


EPISODE = st.tuples(st.integers(0, 14), st.sampled_from(sorted(ENDS)), st.sets(st.integers(0, 13)))


@settings(max_examples=150, deadline=None)
@given(
    stack=st.integers(1, 4),
    n_step=st.integers(1, 5),
    spare=st.integers(0, 30),
    padding=st.sampled_from(["repeat", "zero"]),
    episodes=st.lists(EPISODE.map(lambda drawn: (*drawn[:2], *drawn[2])), min_size=1, max_size=10),
)
def test_every_batch_and_the_set_of_transitions_are_the_twins(stack, n_step, spare, padding, episodes):
    shape = {"capacity": stack + n_step + spare, "stack": stack, "n_step": n_step, "padding": padding, "discount": 0.5}
    sampler = Requested(shape["capacity"])
    replay, twin = small_replay(sampler, **shape), Twin(**shape)

    def check():
        expected = twin.transitions()
        assert sampler.members == set(expected)
        assert len(replay) == len(expected)
        if not expected:
            return
        sampler.request = sorted(expected)
        batch = replay.sample(len(expected), np.random.default_rng(0))
        rows = [expected[slot] for slot in sampler.request]
        assert_rows(batch, rows)
        assert batch.index.tolist() == sampler.request
        np.testing.assert_array_equal(batch.weight, np.linspace(0, 1, len(rows), dtype=np.float32))

    feed([replay, twin], episodes, check)


@settings(max_examples=80, deadline=None)
@given(
    longest=st.integers(2, 5),
    asked=st.integers(1, 5),
    discount=st.sampled_from([0.25, 0.5, 1.0]),
    padding=st.sampled_from(["repeat", "zero"]),
    episodes=st.lists(EPISODE.map(lambda drawn: (*drawn[:2], *drawn[2])), min_size=1, max_size=8),
)
def test_shorter_returns_and_another_discount_are_those_of_a_twin_built_for_them(
    longest, asked, discount, padding, episodes
):
    asked = min(asked, longest)
    shape = {"capacity": 12 + longest, "stack": 2, "padding": padding}
    sampler = Requested(shape["capacity"])
    replay = small_replay(sampler, n_step=longest, **shape)
    twin = Twin(n_step=asked, discount=discount, **shape)

    def check():
        expected, sampler.request = twin.transitions(), sorted(sampler.members)
        if sampler.request:
            assert sampler.members <= expected.keys()
            batch = Replay.sample(replay, len(sampler.request), np.random.default_rng(0), asked, discount)
            assert_rows(batch, [expected[slot] for slot in sampler.request])

    feed([replay, twin], episodes, check)


@pytest.mark.parametrize("n_step", [0, 4])
def test_returns_longer_than_it_was_built_for_are_refused(n_step):
    replay = small_replay(n_step=3)
    feed([replay], [(6, "terminated")])
    with pytest.raises(ValueError, match=f"built for returns of 1 to 3 steps, asked for {n_step}"):
        Replay.sample(replay, 2, np.random.default_rng(0), n_step, 0.5)


def test_types_and_shapes_of_a_batch():
    replay = Asking(
        capacity=30, stack=3, padding="repeat", n_step=1, discount=0.99, device=CPU, sampler=UniformSampler(30), **DMC
    )
    frame = np.zeros((3, 100, 100), np.uint8)
    replay.begin(frame)
    for step in range(20):
        replay.add(np.full(6, step, np.float32), 1.0, False, False, frame + step)
    batch = replay.sample(8, np.random.default_rng(0))
    assert (batch.future, batch.labels) == (None, None)
    given = {name: value for name, value in batch._asdict().items() if value is not None}
    assert {name: (tuple(value.shape), value.dtype) for name, value in given.items()} == {
        "obs": ((8, 9, 100, 100), torch.uint8),
        "action": ((8, 6), torch.float32),
        "reward": ((8,), torch.float32),
        "discount": ((8,), torch.float32),
        "next_obs": ((8, 9, 100, 100), torch.uint8),
        "weight": ((8,), torch.float32),
        "index": ((8,), torch.int64),
        "episode": ((8,), torch.int64),
    }
    assert torch.equal(batch.action[:, 0].long(), batch.index)


def test_state_observations():
    replay = small_replay(obs_shape=(4,), obs_dtype=torch.float32, stack=1, n_step=2)
    replay.begin(np.full(4, -1.5, np.float32))
    for step in range(3):
        replay.add(0, 1.0, step == 2, False, np.full(4, step, np.float32))
    batch = replay.sample(50, np.random.default_rng(0))
    named = torch.tensor([-1.5, 0.0, 1.0])
    assert batch.index.unique().tolist() == [0, 1, 2]
    assert torch.equal(batch.obs, named[batch.index][:, None].expand(50, 4))
    assert torch.equal(batch.next_obs[:, 0], torch.tensor([1.0, 2.0, 2.0])[batch.index])
    assert torch.equal(batch.discount, torch.tensor([0.25, 0.0, 0.0])[batch.index])


@pytest.mark.parametrize(("end", "goes_on"), [("terminated", 0), ("truncated", 1)])
def test_three_step_returns_over_a_lost_life_by_hand(end, goes_on):
    sampler = Requested(20)
    replay = small_replay(sampler, n_step=3, stack=3, padding="zero", discount=0.5)
    replay.begin(numbered(0))
    for step, reward in enumerate([1, 2, 4, 8, 16, 32], start=1):
        last = step == 6
        replay.add(step, reward, *(ENDS[end] if last else (False, False)), numbered(step), life_lost=step == 2)
        assert sampler.members == set(range([0, 0, 2, 2, 2, 3, 6][step]))  # complete at once where a life ends
    assert replay.written == 7
    sampler.request = list(range(6))
    batch = replay.sample(6, np.random.default_rng(0))
    assert batch.reward.tolist() == [2, 2, 12, 24, 32, 32]
    assert batch.discount.tolist() == [0, 0, 0.125, 0.125 * goes_on, 0.25 * goes_on, 0.5 * goes_on]
    seen = [(images[:, :, 0, 0].int() - 1).tolist() for images in (batch.obs, batch.next_obs)]  # -1: blank
    assert seen[0] == [[-1, -1, 0], [-1, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    assert seen[1] == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [4, 5, 6], [4, 5, 6], [4, 5, 6]]


def test_a_life_lost_in_the_step_that_truncates_ends_the_return_and_the_episode():
    sampler = Requested(20)
    replay = small_replay(sampler, n_step=3)
    replay.begin(numbered(0))
    replay.add(0, 1.0, False, False, numbered(1))
    replay.add(0, 2.0, False, True, numbered(2), life_lost=True)
    sampler.request = [0, 1]
    assert replay.sample(2, np.random.default_rng(0)).discount.tolist() == [0, 0]
    with pytest.raises(RuntimeError, match="no episode is running"):
        replay.add(0, 1.0, False, False, numbered(3))


@pytest.mark.parametrize(("end", "goes_on"), [("terminated", 0), ("truncated", 1)])
def test_twenty_step_returns_over_lost_lives_by_hand(end, goes_on):
    sampler = Requested(100)
    replay = small_replay(sampler, capacity=100, n_step=20)
    replay.begin(numbered(0))
    for step in range(1, 51):
        ends = ENDS[end] if step == 50 else (False, False)
        replay.add(0, 1.0, *ends, numbered(step), life_lost=step in (5, 40))
    expected = {  # k rewards of 1 at discount 1/2 sum to 2 - 2 ** (1 - k)
        0: (2 - 2**-4, 0), 4: (1, 0),  # up to the first lost life
        5: (2 - 2**-19, 2**-20), 19: (2 - 2**-19, 2**-20),  # all 20 steps within a life
        20: (2 - 2**-19, 0), 39: (1, 0),  # up to the second, the first of them after exactly 20 steps
        40: (2 - 2**-9, 2**-10 * goes_on), 49: (1, 0.5 * goes_on),
    }  # fmt: skip
    sampler.request = list(expected)
    batch = replay.sample(len(expected), np.random.default_rng(0))
    assert list(zip(batch.reward.tolist(), batch.discount.tolist(), strict=True)) == list(expected.values())
    assert sampler.members == set(range(50))


def test_n_step_batches_of_the_original():
    data = np.load(DATA / "replay_n3.npz")
    sampler = Requested(300)
    replay = Asking(
        capacity=300, obs_shape=(1, 1, 1), obs_dtype=torch.uint8, action_shape=(), action_dtype=torch.int64,
        stack=int(data["history"]), padding="zero", n_step=int(data["n_step"]), discount=float(data["discount"]),
        device=CPU, sampler=sampler,
    )  # fmt: skip
    frames, ends = data["frame"].astype(np.uint8).reshape(-1, 1, 1, 1), data["terminal"]
    final = np.full((1, 1, 1), 255, np.uint8)  # the frame after a terminal step, which the original does not keep
    replay.begin(frames[0])
    for i in range(len(frames) - 1):
        replay.add(data["action"][i], data["reward"][i], ends[i], False, final if ends[i] else frames[i + 1])
        if ends[i]:
            replay.begin(frames[i + 1])
    index = data["index"]
    sampler.request = (index + (np.cumsum(ends) - ends)[index]).tolist()
    batch = replay.sample(len(index), np.random.default_rng(0))
    np.testing.assert_array_equal(batch.obs.flatten(1), data["state"])
    np.testing.assert_array_equal(batch.action, data["chosen"])
    np.testing.assert_allclose(batch.reward, data["n_step_return"], rtol=1e-6, atol=1e-6)
    # Departure: the original reads the terminal flag of step i + n, one too late, and so takes the value of the last
    # state before an end for 0 although the return stops short of that end. Here only an end within the n steps counts.
    ended = np.stack([ends[index + step] for step in range(3)]).any(0)
    too_early = ends[index + 3] & ~ended
    np.testing.assert_array_equal(data["nonterminal"], ~(ended | too_early))
    np.testing.assert_allclose(batch.discount, np.where(ended, 0, 0.99**3), rtol=1e-6)
    np.testing.assert_array_equal(batch.next_obs.flatten(1)[~ended], data["next_state"][~ended])
    assert (too_early.sum(), ended.sum(), len(index)) == (11, 39, 192)


def test_a_batch_outlives_the_next_one():
    replay = small_replay()
    feed([replay], [(15, "truncated")])
    rng = np.random.default_rng(0)
    first = replay.sample(8, rng)
    kept = first.obs.clone(), first.next_obs.clone()
    second = replay.sample(8, rng)
    assert torch.equal(first.obs, kept[0])
    assert torch.equal(first.next_obs, kept[1])
    assert not torch.equal(second.obs, kept[0])
    assert replay.sample(8, rng).obs.data_ptr() == first.obs.data_ptr()
    assert replay.sample(3, rng).obs.shape == (3, 2, 2, 1)


def test_a_slot_costs_at_most_30200_bytes():
    transitions, slots = 100_000, 100_400  # episodes of 250 steps and 251 frames
    for sampler in (UniformSampler, PrioritizedSampler):
        assert 30_120 < predict_bytes(slots, sampler=sampler, **DMC) / transitions <= 30_200
        replay = small_replay(sampler(40), capacity=40, **DMC)
        assert replay.nbytes == predict_bytes(40, sampler=sampler, **DMC)
    with open("/proc/self/statm") as statm:
        before = int(statm.read().split()[1])
        replay = small_replay(capacity=30_000, **DMC)
        statm.seek(0)
        assert (int(statm.read().split()[1]) - before) * 4096 < 20e6  # pages untouched
    assert replay.nbytes > 900e6


def random_episodes(rng, count):
    return [(int(rng.integers(9)), str(rng.choice(sorted(ENDS))), *rng.integers(9, size=2)) for _ in range(count)]


@pytest.mark.parametrize("seed", range(8))
def test_deferred_priorities_are_the_twins(seed):
    """Numbers never come twice, slots do: what is handed in late must not reach a slot's next transition."""
    rng = np.random.default_rng(seed)
    shape = {"capacity": int(rng.integers(5, 25)), "stack": 2, "n_step": 2, "padding": "zero", "discount": 0.5}
    sampler = PrioritizedSampler(shape["capacity"], exponent=1.0)
    replay, twin = small_replay(sampler, **shape), Twin(**shape)
    priority, largest, pending, counts = {}, 1.0, [], {"late": 0, "gone": 0}

    def apply():
        nonlocal largest
        live = [(number, value) for number, value in pending if number in priority]
        counts["late"] += len(live)
        counts["gone"] += len(pending) - len(live)
        priority.update(live)
        largest = max([largest, *(value for _, value in live)])
        pending.clear()

    def hand_in(index):
        values = torch.from_numpy(rng.random(len(index)) * rng.choice([1.0, 4.0]))
        replay.update_priorities(index, values)
        apply()
        pending.extend(zip(map(twin.number, index.tolist()), values.float().tolist(), strict=True))
        values.fill_(math.nan)  # as an agent may reuse its memory

    def check():
        expected = twin.transitions()
        numbers = {twin.number(slot): slot for slot in expected}
        for number in numbers.keys() - priority.keys():
            priority[number] = largest
        for number in priority.keys() - numbers.keys():
            del priority[number]
        choice = rng.choice(["wait", "sample", "save"], p=[0.7, 0.25, 0.05])
        if choice == "wait" or not expected:
            return
        state = replay.state_dict() if choice == "save" else None
        batch = replay.sample(4, rng)
        apply()
        assert_rows(batch, [expected[slot] for slot in batch.index.tolist()])
        masses = np.zeros(shape["capacity"])
        masses[list(numbers.values())] = [priority[number] for number in numbers]
        for sampled in [sampler.state_dict()] if state is None else [state["sampler"], sampler.state_dict()]:
            np.testing.assert_array_equal(sampled["mass"], masses)
        for _ in range(rng.integers(1, 3)):
            hand_in(batch.index[: rng.integers(1, 5)].clone())

    feed([replay, twin], random_episodes(rng, 40), check)
    assert min(counts.values()) > 0


def test_priorities_of_before_do_not_reach_a_restored_state():
    sampler = PrioritizedSampler(20)
    replay = small_replay(sampler)
    feed([replay], [(9, "truncated")])
    state = replay.state_dict()
    replay.update_priorities(torch.arange(3), torch.full((3,), 7.0))
    replay.load_state_dict(state)
    replay.sample(2, np.random.default_rng(0))
    assert torch.equal(sampler.state_dict()["mass"], state["sampler"]["mass"])


def restored(pieces, state, make):
    replay = make()
    for start, piece in pieces:
        replay.restore_journal(start, piece)
    replay.load_state_dict(state)
    return replay


@pytest.mark.parametrize("sampler", [UniformSampler, PrioritizedSampler])
@pytest.mark.parametrize("capacity", [11, 24, 200])
@pytest.mark.parametrize("live_only", [False, True])
@pytest.mark.parametrize("stop", [0, 3])
def test_journal_in_pieces_restores_a_replay_bit_for_bit(sampler, capacity, live_only, stop):
    def make():
        return small_replay(sampler(capacity), capacity=capacity, stack=3, n_step=2)

    rng = np.random.default_rng(capacity + stop)
    original, pieces, saved = make(), [], 0
    for episode in [*random_episodes(rng, 25), (stop + 1, "cut", 3)]:  # stops before or right after a lost life
        feed([original], [episode])
        if len(original):
            batch = original.sample(4, rng)
            original.update_priorities(batch.index, batch.reward.abs())
        if rng.random() < 0.4 or episode[1] == "cut":
            pieces.append((max(saved, original.written - capacity), original.journal(saved)))
            saved = original.written
    pieces.append((max(saved, original.written - capacity), original.journal(saved)))
    assert original.written > 6 * min(capacity, 11)  # the smallest ring has gone round
    first = original.written - capacity
    if live_only:
        pieces = [
            (max(start, first), {name: rows[max(0, first - start) :] for name, rows in piece.items()})
            for start, piece in pieces
            if start + len(piece["frame"]) > first
        ]
    copy = restored(pieces, original.state_dict(), make)
    assert copy.written == original.written
    here, there = np.random.default_rng(1), np.random.default_rng(1)
    for replay in (original, copy):  # the running episode goes on without begin()
        replay.add(1, 0.5, False, True, numbered(replay.written))
    for episode in random_episodes(rng, 20):
        feed([original, copy], [episode])
        batch, other = original.sample(16, here), copy.sample(16, there)
        assert_same(batch, other)
        for replay in (original, copy):
            replay.update_priorities(batch.index, batch.obs.float().mean((1, 2, 3)))
    for name, rows in original.journal(0).items():
        assert torch.equal(rows, copy.journal(0)[name])
        assert len(rows) == min(capacity, original.written)


def test_checkpoints_keep_a_replay(tmp_path):
    original = small_replay()
    checkpoints = Checkpoints(tmp_path)
    for step in range(6):
        feed([original], [(7, "truncated"), (step, "cut")])
        checkpoints.save(step, {"replay": original.state_dict()}, original)
    copy = small_replay()
    state = Checkpoints(tmp_path).load(copy)
    assert state is not None
    copy.load_state_dict(state["replay"])
    feed([original, copy], [(4, "terminated")])
    assert_same(original.sample(32, np.random.default_rng(0)), copy.sample(32, np.random.default_rng(0)))


def test_a_replay_restored_between_episodes_waits_for_the_next():
    original = small_replay()
    feed([original], [(9, "terminated")])
    copy = restored([(0, original.journal(0))], original.state_dict(), small_replay)
    with pytest.raises(RuntimeError, match="call begin"):
        copy.add(0, 0.0, False, False, numbered(10))


def test_the_journal_is_a_copy_of_the_new_slots_only():
    replay = small_replay()
    feed([replay], [(9, "truncated")])
    piece = replay.journal(6)
    assert {name: len(rows) for name, rows in piece.items()} == dict.fromkeys(piece, 4)
    assert piece["frame"][:, 0, 0, 0].tolist() == [7, 8, 9, 10]
    feed([replay], [(19, "cut")])
    assert piece["frame"][:, 0, 0, 0].tolist() == [7, 8, 9, 10]
    assert len(replay.journal(0)["frame"]) == 20
    assert len(replay.journal(replay.written)["frame"]) == 0


def test_journals_that_do_not_fit_are_refused():
    original = small_replay()
    feed([original], [(30, "truncated")])
    piece, state = original.journal(0), original.state_dict()
    with pytest.raises(ValueError, match="restore_journal"):
        small_replay().load_state_dict(state)
    with pytest.raises(ValueError, match="capacity 20, this one has 19"):
        small_replay(capacity=19).load_state_dict(state)
    with pytest.raises(ValueError, match=r"\(1, 2, 1\) torch.uint8 does not fit .*\(1, 3, 1\)"):
        small_replay(obs_shape=(1, 3, 1)).restore_journal(11, piece)
    copy = small_replay()
    copy.restore_journal(11, {name: rows[:5] for name, rows in piece.items()})
    with pytest.raises(ValueError, match="misses the slots 16 to 18"):
        copy.restore_journal(18, {name: rows[7:] for name, rows in piece.items()})
    short = small_replay()
    short.restore_journal(13, {name: rows[2:] for name, rows in piece.items()})
    with pytest.raises(ValueError, match="restored are 13 to 31"):
        short.load_state_dict(state)


def test_calls_out_of_order_are_refused():
    replay = small_replay()
    with pytest.raises(RuntimeError, match="collect more steps"):
        replay.sample(1, np.random.default_rng(0))
    with pytest.raises(RuntimeError, match="call begin"):
        replay.add(0, 0.0, False, False, numbered(0))
    feed([replay], [(2, "truncated")])
    with pytest.raises(RuntimeError, match="call begin"):
        replay.add(0, 0.0, False, False, numbered(0))
    assert (replay.written, len(replay)) == (3, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame": np.zeros((2, 1, 1), np.uint8)}, r"frames \(1, 2, 1\) uint8, got \(2, 1, 1\) uint8"),
        ({"frame": np.zeros((1, 2, 1), np.float32)}, r"frames \(1, 2, 1\) uint8, got \(1, 2, 1\) float32"),
        ({"action": np.zeros(1)}, r"actions \(\), got \(1,\)"),
        ({"reward": math.nan}, "reward nan"),
    ],
)
def test_a_wrong_step_is_refused_and_not_stored(change, message):
    replay = small_replay()
    replay.begin(numbered(0))
    step = {"action": 0, "reward": 0.0, "terminated": False, "truncated": False, "frame": numbered(1)}
    with pytest.raises(ValueError, match=message):
        replay.add(**(step | change))
    assert replay.written == 1
    replay.add(**step)
    assert len(replay) == 1


def test_frames_of_any_memory_layout_are_stored():
    replay = small_replay(obs_shape=(3, 4, 5))
    frame = np.arange(60, dtype=np.uint8).reshape(4, 5, 3).transpose(2, 0, 1)[:, ::-1]
    frame.flags.writeable = False
    replay.begin(frame)
    replay.add(0, 0.0, False, False, frame)
    np.testing.assert_array_equal(replay.sample(1, np.random.default_rng(0)).obs[0, :3], frame)


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="2 stacked frames and 1 steps; raise it to 3"):
        small_replay(capacity=2)
    with pytest.raises(ConfigError, match="none of repeat, zero"):
        small_replay(padding="edge")
    with pytest.raises(ValueError, match="the replay's capacity 20"):
        small_replay(UniformSampler(21))


def test_storage_is_the_training_device_when_it_fits(monkeypatch):
    gib, cuda = 2**30, torch.device("cuda")
    free = {"cuda": 10 * gib, "cpu": 20 * gib}
    monkeypatch.setattr(memory, "free_memory", lambda device: free[device.type])
    assert choose_storage("auto", cuda, 6 * gib) == cuda  # 4 GiB stay free
    assert choose_storage("auto", cuda, 6 * gib + 1) == CPU
    assert choose_storage("cuda", cuda, 6 * gib) == cuda
    assert choose_storage("cpu", cuda, gib) == CPU
    assert choose_storage("auto", CPU, 20 * gib) == CPU
    with pytest.raises(ConfigError, match=r"needs 40.00 GiB .* 20.00 GiB free: .*capacity \(50% of it would fit\)"):
        choose_storage("auto", cuda, 40 * gib)
    with pytest.raises(ConfigError, match=r"replay.device=cpu, a smaller replay.capacity \(75%"):
        choose_storage("cuda", cuda, 8 * gib)
    with pytest.raises(ConfigError, match="set device=cuda or"):
        choose_storage("cuda", CPU, gib)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("storage", ["cuda", "cpu"])
def test_cuda_batches_equal_cpu_ones_and_wait_for_nothing(storage):
    options = {"n_step": 3, "padding": "zero", "action_shape": (5,), "action_dtype": torch.float32}
    expected = small_replay(**options)
    replay = small_replay(device=torch.device("cuda"), storage=torch.device(storage), **options)
    for number in range(50):
        for target in (expected, replay):
            if number % 10 == 0:
                target.begin(numbered(number))
            else:
                target.add(
                    np.full(5, number, np.float32), number, number % 20 == 9, number % 20 == 19, numbered(number)
                )
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    for _ in range(5):
        torch.cuda.set_sync_debug_mode("error")
        try:
            batch = replay.sample(16, rng)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all(value.is_cuda for value in tensors(batch))
        assert_same(type(batch)(*(value.cpu() for value in tensors(batch))), expected.sample(16, other))
    for name, rows in replay.journal(0).items():
        assert torch.equal(rows, expected.journal(0)[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_priorities_equal_cpu_ones_and_wait_for_nothing():
    samplers = PrioritizedSampler(20), PrioritizedSampler(20)
    replays = [small_replay(samplers[0]), small_replay(samplers[1], device=torch.device("cuda"))]
    feed(replays, [(12, "truncated")])
    for turn in range(8):
        expected, batch = (replay.sample(8, np.random.default_rng(turn)) for replay in replays)
        assert_same(type(batch)(*(value.cpu() for value in tensors(batch))), expected)
        replays[0].update_priorities(expected.index, expected.reward.abs() + turn)
        priorities = batch.reward.abs() + turn
        torch.cuda.set_sync_debug_mode("error")
        try:
            torch.cuda._sleep(10_000_000)  # the device is busy when the copy is asked for
            replays[1].update_priorities(batch.index, priorities)
            priorities.fill_(-1.0)  # refused if it were read
            assert not torch.cuda.current_stream().query()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        feed(replays, [(2, "terminated", 0)])
    masses = [replay.state_dict()["sampler"]["mass"] for replay in replays]
    assert torch.equal(*masses)
