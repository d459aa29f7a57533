"""A ring that goes on wider than it was: its frames, draws and priorities keep their right transitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_replay import EPISODE, Requested, Twin, assert_rows, feed, numbered, small_replay

from curl_rl.replay.samplers import PrioritizedSampler, UniformSampler
from curl_rl.run.checkpoint import Checkpoints


class GrownTwin(Twin):
    """A twin whose ring became wider once so many slots had been written: what it had lost does not come back."""

    lost = 0

    def grow(self, capacity):
        self.lost = max(self.lost, self.written - self.capacity)
        self.capacity = capacity

    def transitions(self):
        found = super().transitions()
        ages = {}
        for episode in self.episodes:
            ages |= {episode["first"] + age: age for age in range(len(episode["frames"]))}
        numbers = {slot: self.number(slot) for slot in found}
        needed = {slot: number - min(ages[number], self.stack - 1) for slot, number in numbers.items()}
        return {slot: row for slot, row in found.items() if needed[slot] >= self.lost}


class Moved(Requested):
    """Draws what is asked for, and keeps what it may draw."""

    def state_dict(self):
        return {"members": sorted(self.members)}

    def load_state_dict(self, state, places=None):
        self.members = {int(member if places is None else places[member]) for member in state["members"]}


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 20)),
    wider=st.lists(st.integers(1, 30), min_size=1, max_size=2),
    padding=st.sampled_from(["repeat", "zero"]),
    episodes=st.lists(EPISODE.map(lambda drawn: (*drawn[:2], *drawn[2])), min_size=3, max_size=9),
)
def test_every_batch_of_a_ring_that_grew_is_the_twins(sizes, wider, padding, episodes):
    stack, n_step, spare = sizes
    shape = {"capacity": stack + n_step + spare, "stack": stack, "n_step": n_step, "padding": padding, "discount": 0.5}
    sampler = Moved(shape["capacity"])
    replay, twin = small_replay(sampler, **shape), GrownTwin(**shape)

    def check():
        expected = twin.transitions()
        assert sampler.members == set(expected)
        if expected:
            sampler.request = sorted(expected)
            batch = replay.sample(len(expected), np.random.default_rng(0))
            assert_rows(batch, [expected[slot] for slot in sampler.request])

    share = max(1, len(episodes) // (len(wider) + 1))
    for number, more in enumerate([*wider, 0]):
        feed([replay, twin], episodes[number * share : (number + 1) * share], check)
        if not more:
            break
        before, shape = replay, {**shape, "capacity": shape["capacity"] + more}
        twin.grow(shape["capacity"])
        sampler = Moved(shape["capacity"])
        replay, first = small_replay(sampler, **shape), max(0, before.written - before.capacity)
        replay.restore_journal(first, before.journal(0))
        replay.load_state_dict(before.state_dict())
        check()


@pytest.mark.parametrize("sampler", [UniformSampler, PrioritizedSampler])
@pytest.mark.parametrize("written", [12, 47])
def test_a_grown_ring_draws_as_before_and_survives_its_checkpoints(tmp_path, sampler, written):
    """Of 20 slots to 64: no slot is lost from then on, so that both draw alike until the narrow one forgets."""
    narrow, rng = small_replay(sampler(20)), np.random.default_rng(3)
    feed([narrow], [(9, "truncated")] * (written // 10))
    narrow.begin(numbered(narrow.written))
    narrow.add(1, 0.5, False, False, numbered(narrow.written))
    if len(narrow) > 8:
        batch = narrow.sample(8, rng)
        narrow.update_priorities(batch.index, batch.obs.float().mean((1, 2, 3)))
    Checkpoints(tmp_path).save(0, {"replay": narrow.state_dict()}, narrow)
    for step in range(1, 4):  # read, go on, save in the wider ring, twice over
        wide, checkpoints = small_replay(sampler(64), capacity=64), Checkpoints(tmp_path)
        state = checkpoints.load(wide)
        assert state is not None
        wide.load_state_dict(state["replay"])
        if step == 1 and sampler is UniformSampler:  # whose list keeps its order
            drawn, again = (each.sample(64, np.random.default_rng(1)) for each in (narrow, wide))
            assert drawn.obs.equal(again.obs)
            assert drawn.next_obs.equal(again.next_obs)
        elif step == 1:
            masses = [each.state_dict()["sampler"]["mass"].numpy() for each in (narrow, wide)]
            newest = narrow.written - 1
            numbers = newest - (newest - np.arange(20)) % 20
            np.testing.assert_array_equal(masses[1][numbers % 64], masses[0])
            assert np.count_nonzero(masses[1]) == np.count_nonzero(masses[0]) == len(narrow)
        kept = len(wide)
        wide.add(1, 0.5, False, False, numbered(wide.written))
        assert len(wide) == kept + 1  # nothing was forgotten for it
        checkpoints.save(step, {"replay": wide.state_dict()}, wide)
