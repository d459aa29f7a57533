"""Samplers against naive twins: a set, a cumulative sum, exact frequencies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from curl_rl.replay.samplers import PrioritizedSampler, UniformSampler, _SumTree
from curl_rl.types import ConfigError

SAMPLERS = [UniformSampler, PrioritizedSampler]


class Extreme(np.random.Generator):
    """A generator whose uniform numbers all lie at one end of [0, 1)."""

    def __init__(self, value):
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self, size):
        return np.full(size, self.value)


def prioritized(priorities, **options):
    sampler = PrioritizedSampler(len(priorities), **options)
    for index in range(len(priorities)):
        sampler.add(index)
    sampler.update(np.arange(len(priorities)), np.array(priorities))
    return sampler


def leaf_order(size, node=1):
    """Leaves from left to right, by walking the tree."""
    return [node - size] if node >= size else leaf_order(size, 2 * node) + leaf_order(size, 2 * node + 1)


@pytest.mark.parametrize("sampler_class", SAMPLERS)
@settings(max_examples=60, deadline=None)
@given(toggles=st.lists(st.integers(0, 12), max_size=60), seed=st.integers(0, 2**32 - 1))
def test_samplers_hold_exactly_a_set(sampler_class, toggles, seed):
    sampler, twin = sampler_class(13), set()
    for index in toggles:
        (sampler.remove if index in twin else sampler.add)(index)
        twin ^= {index}
    assert len(sampler) == len(twin)
    if twin:
        drawn, weight = sampler.sample(400, np.random.default_rng(seed))
        assert set(drawn.tolist()) == twin
        np.testing.assert_array_equal(weight, np.ones(400, np.float32))
        assert (drawn.dtype, weight.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("sampler_class", SAMPLERS)
def test_wrong_calls_are_refused(sampler_class):
    sampler = sampler_class(4)
    with pytest.raises(RuntimeError, match="collect more steps"):
        sampler.sample(2, np.random.default_rng(0))
    with pytest.raises(ValueError, match="slot 1 is not in"):
        sampler.remove(1)
    sampler.add(1)
    with pytest.raises(ValueError, match="slot 1 is already in"):
        sampler.add(1)
    sampler.remove(1)
    with pytest.raises(RuntimeError, match="nothing to sample"):
        sampler.sample(2, np.random.default_rng(0))


@pytest.mark.parametrize("sampler_class", SAMPLERS)
def test_restored_sampler_continues_bit_for_bit(sampler_class):
    rng = np.random.default_rng(0)
    original = sampler_class(37)
    for index in range(37):
        original.add(index)
    for index in rng.permutation(37)[:11]:
        original.remove(int(index))
    index, _ = original.sample(64, rng)
    original.update(index, rng.random(64) * 3)

    restored = sampler_class(37)
    restored.add(5)  # what it held before must not survive
    restored.load_state_dict(original.state_dict())
    here, there = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(20):
        index, weight = original.sample(16, here)
        other_index, other_weight = restored.sample(16, there)
        np.testing.assert_array_equal(index, other_index)
        np.testing.assert_array_equal(weight, other_weight)
        for sampler in (original, restored):
            sampler.update(index, index + 0.1)
            sampler.remove(int(index[0]))
            sampler.add(int(index[0]))
    assert len(original) == len(restored) == 26


@pytest.mark.parametrize("sampler_class", SAMPLERS)
def test_bytes_per_slot_is_what_the_arrays_take(sampler_class):
    sampler = sampler_class(1000)
    owner = vars(sampler) | vars(vars(sampler).get("_tree", sampler))
    arrays = [value for value in owner.values() if isinstance(value, np.ndarray) and value.base is None]
    assert sum(array.nbytes for array in arrays) == 1000 * sampler_class.bytes_per_slot
    assert sampler.capacity == 1000


def test_uniform_frequencies():
    sampler = UniformSampler(50)
    for index in range(50):
        sampler.add(index)
    for index in range(0, 50, 3):
        sampler.remove(index)
    drawn, _ = sampler.sample(60_000, np.random.default_rng(3))
    counts = np.bincount(drawn, minlength=50)
    assert counts[::3].sum() == 0
    assert chisquare(np.delete(counts, np.arange(0, 50, 3))).pvalue > 1e-3


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_prioritized_frequencies(exponent):
    priorities = np.random.default_rng(0).random(41) * 4 + 0.05
    sampler = prioritized(priorities, exponent=exponent)
    sampler.remove(40)
    expected = np.append(priorities[:40] ** exponent, 0) / np.sum(priorities[:40] ** exponent)
    rng = np.random.default_rng(1)
    # One at a time the draws are independent; in a batch each slice of the mass gives exactly one.
    counts = np.bincount([sampler.sample(1, rng)[0][0] for _ in range(10_000)], minlength=41)
    assert counts[40] == 0
    assert chisquare(counts[:40], expected[:40] * 10_000).pvalue > 1e-3
    batch = np.bincount(sampler.sample(1000, rng)[0], minlength=41)
    assert np.all(np.abs(batch - 1000 * expected) < 2)


def test_prioritized_weights_by_hand():
    sampler = prioritized([1.0, 4.0, 16.0, 0.25], exponent=0.5, betas=(0.4, 1.0))
    sampler.remove(3)
    index, weight = sampler.sample(256, np.random.default_rng(0))
    raw = (3 * np.array([1, 2, 4]) / 7) ** -0.4
    assert set(index.tolist()) == {0, 1, 2}
    np.testing.assert_allclose(weight, (raw / raw[0])[index], rtol=1e-6)
    sampler = prioritized([1.0, 4.0, 16.0], exponent=0.5, betas=(1.0, 1.0))
    index, weight = sampler.sample(256, np.random.default_rng(0))
    np.testing.assert_allclose(weight, np.array([1, 1 / 2, 1 / 4])[index], rtol=1e-6)


def test_weights_are_relative_to_the_batch():
    sampler = prioritized([1.0, 1.0, 100.0], exponent=1.0, betas=(1.0, 1.0))
    index, weight = sampler.sample(1, Extreme(0.5))
    assert index.tolist() == [2]
    assert weight.tolist() == [1.0]


@pytest.mark.parametrize(("betas", "each"), [((0.4, 1.0), (0.4, 0.55, 0.7, 0.85, 1.0, 1.0)), ((0.5, 0.5), (0.5,) * 6)])
def test_beta_goes_to_its_end_and_is_kept(betas, each):
    options = {"exponent": 1.0, "betas": betas, "anneal_updates": 4}
    sampler = PrioritizedSampler(3, **options)
    sampler.add(0)
    sampler.add(1)
    for expected in each:
        assert sampler.beta == pytest.approx(expected)
        restored = PrioritizedSampler(3, **options)
        restored.load_state_dict(sampler.state_dict())
        assert restored.beta == sampler.beta
        sampler.update(np.array([0, 1, 2]), np.array([1.0, 3.0, 1.0]))
        index, weight = sampler.sample(64, np.random.default_rng(0))
        np.testing.assert_allclose(weight, np.array([1, 3**-sampler.beta])[index], rtol=1e-6)
    sampler.update(np.array([2]), np.array([1.0]))  # counts although the slot is gone
    assert sampler.state_dict()["updates"] == 7
    constant = prioritized([1.0, 2.0], betas=(0.3, 1.0))
    assert constant.beta == 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exponent": 1.5}, "replay.exponent=1.5 .* in that range"),
        ({"exponent": float("nan")}, "replay.exponent=nan"),
        ({"betas": (-0.1, 1.0)}, "replay.beta=-0.1"),
        ({"betas": (0.4, 1.5)}, "replay.last_beta=1.5"),
        ({"anneal_updates": -1}, "replay.anneal_updates=-1 .* choose 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PrioritizedSampler(4, **options)


def test_a_single_live_slot_among_many_is_always_drawn():
    sampler = PrioritizedSampler(100_000, betas=(1.0, 1.0))
    for index in range(0, 100_000, 3):
        sampler.add(index)
    for index in range(0, 100_000, 3):
        if index != 77_778:
            sampler.remove(index)
    for end in (0.0, 0.5, np.nextafter(1, 0), 1.0):
        index, weight = sampler.sample(32, Extreme(end))
        assert set(index.tolist()) == {77_778}
        np.testing.assert_array_equal(weight, np.ones(32, np.float32))
    sampler.remove(77_778)
    with pytest.raises(RuntimeError, match="nothing to sample"):
        sampler.sample(32, np.random.default_rng(0))


def test_a_new_slot_gets_the_largest_priority_so_far():
    sampler = PrioritizedSampler(4, exponent=1.0, betas=(1.0, 1.0))
    sampler.add(0)
    sampler.add(1)
    sampler.update(np.array([0, 1]), np.array([8.0, 2.0]))
    sampler.update(np.array([0]), np.array([1.0]))
    sampler.add(2)
    counts = np.bincount(sampler.sample(1100, np.random.default_rng(0))[0], minlength=4)
    np.testing.assert_allclose(counts, [100, 200, 800, 0], atol=2)


def test_update_ignores_removed_slots_and_takes_the_last_of_a_repeated_one():
    sampler = prioritized([1.0, 1.0, 1.0], exponent=1.0)
    sampler.remove(1)
    sampler.update(np.array([1, 0, 0]), np.array([50.0, 9.0, 3.0]))
    counts = np.bincount(sampler.sample(400, np.random.default_rng(0))[0], minlength=3)
    np.testing.assert_allclose(counts, [300, 0, 100], atol=2)
    sampler.add(1)  # 9 is the largest that a live slot had
    counts = np.bincount(sampler.sample(1300, np.random.default_rng(0))[0], minlength=3)
    np.testing.assert_allclose(counts, [300, 900, 100], atol=2)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (-1.0, ValueError, "must not be negative, got -1.0"),
        (np.nan, FloatingPointError, "lower agent.learning_rate"),
        (np.inf, FloatingPointError, "not finite"),
    ],
)
def test_impossible_priorities_are_refused(wrong, error, words):
    sampler = prioritized([1.0, 2.0])
    with pytest.raises(error, match=words):
        sampler.update(np.array([0]), np.array([wrong]))


def test_priorities_of_zero_stay_drawable():
    sampler = prioritized([0.0] * 5, exponent=0.5, betas=(1.0, 1.0))
    index, weight = sampler.sample(100, np.random.default_rng(0))
    assert set(index.tolist()) == set(range(5))
    np.testing.assert_array_equal(weight, np.ones(100, np.float32))


@settings(max_examples=150, deadline=None)
@given(
    priorities=st.lists(st.floats(0, 1e30) | st.integers(-300, 300).map(lambda e: 10.0**e), min_size=1, max_size=40),
    removed=st.sets(st.integers(0, 39)),
    end=st.sampled_from([0.0, 0.5, np.nextafter(1, 0), 1.0]),
)
def test_removed_slots_are_never_drawn_however_sums_round(priorities, removed, end):
    sampler = prioritized(priorities, exponent=1.0)
    live = set(range(len(priorities))) - removed
    for index in set(range(len(priorities))) - live:
        sampler.remove(index)
    if live:
        index, weight = sampler.sample(33, Extreme(end))
        assert set(index.tolist()) <= live
        assert np.all(np.isfinite(weight))
        assert weight.max() == 1


@settings(max_examples=150, deadline=None)
@given(data=st.data(), size=st.integers(1, 40))
def test_sum_tree_finds_what_a_cumulative_sum_finds(data, size):
    masses = np.array(data.draw(st.lists(st.integers(0, 5), min_size=size, max_size=size)), float)
    masses[data.draw(st.integers(0, size - 1))] = 3
    tree = _SumTree(size)
    tree.rebuild(masses)
    order = np.array(leaf_order(size))
    targets = np.arange(0, masses.sum(), 0.25)
    naive = order[np.searchsorted(np.cumsum(masses[order]), targets, side="right")]
    assert tree.total == masses.sum()
    np.testing.assert_array_equal(tree.find(targets), naive)


@settings(max_examples=150, deadline=None)
@given(
    masses=st.lists(st.just(0.0) | st.integers(-300, 300).map(lambda e: 10.0**e), min_size=1, max_size=40),
    fractions=st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_an_empty_leaf_is_never_found_among_masses_of_any_size(masses, fractions):
    tree = _SumTree(len(masses))
    tree.rebuild(np.array(masses))
    if tree.total > 0:
        total = tree.total
        found = tree.find(np.array([*np.multiply(fractions, total), np.nextafter(total, 0), total, 2 * total]))
        assert np.all(tree.masses[found] > 0)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), size=st.integers(1, 40))
def test_batched_scalar_and_rebuilt_trees_are_equal_bit_for_bit(data, size):
    pairs = st.lists(st.tuples(st.integers(0, size - 1), st.floats(0, 1e6)), min_size=1, max_size=30)
    batched, scalar, rebuilt = _SumTree(size), _SumTree(size), _SumTree(size)
    naive = [0.0] * size
    for batch in data.draw(st.lists(pairs, min_size=1, max_size=4)):
        leaves, masses = (np.array(column) for column in zip(*batch, strict=True))
        batched.set(leaves, masses)
        for leaf, mass in batch:
            scalar.set_one(leaf, mass)
            naive[leaf] = mass
    rebuilt.rebuild(scalar.masses)
    np.testing.assert_array_equal(batched._node, scalar._node)
    np.testing.assert_array_equal(rebuilt._node, scalar._node)
    assert batched.masses.tolist() == naive
    assert [batched.mass_of(leaf) for leaf in range(size)] == naive
    assert batched.total == pytest.approx(sum(naive))
