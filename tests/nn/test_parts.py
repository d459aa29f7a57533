"""What objectives are made of: heads, queues, schedules and random numbers."""

import copy
import io
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from curl_rl.nn.networks import frozen_copy
from curl_rl.nn.parts import Queue, Random, Schedule, projection_head


def reloaded(module: nn.Module) -> Any:
    """Return the module's state as a checkpoint would give it back."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("size", [5, 7])
def test_a_queue_keeps_the_last_rows_in_a_ring(size):
    queue, twin = Queue(size, 2), []
    generator = torch.Generator().manual_seed(0)
    for count in (3, 1, 4, 2, 9, size, 2):  # none of them divides it, some are larger
        rows = torch.randn(count, 2, generator=generator, requires_grad=True)
        queue.push(rows)
        twin = [*twin, *rows.detach().tolist()][-size:]
        assert int(queue.filled) == len(twin)
        if len(twin) == size:
            assert sorted(queue.rows.tolist()) == sorted(twin)
    assert not queue.rows.requires_grad


def test_a_queue_starts_with_random_unit_rows_and_fills_from_the_first():
    torch.manual_seed(0)
    queue = Queue(6, 3)
    start = queue.rows.clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(6))
    assert len(start.unique(dim=0)) == 6
    queue.push(torch.zeros(4, 3))
    assert torch.equal(queue.rows, torch.cat([torch.zeros(4, 3), start[4:]]))


def test_a_queue_goes_on_from_its_state():
    queue, other = Queue(5, 2), Queue(5, 2)
    queue.push(torch.ones(3, 2))
    other.load_state_dict(reloaded(queue))
    for each in (queue, other):
        each.push(torch.full((4, 2), 2.0))
    assert torch.equal(queue.rows, other.rows)
    assert int(queue.place) == int(other.place) == 2
    assert queue.rows.tolist() == [[2, 2], [2, 2], [1, 1], [2, 2], [2, 2]]


def test_a_schedule_is_due_every_periodth_call_and_keeps_its_count():
    schedule = Schedule(3)
    assert [schedule.due() for _ in range(7)] == [False, False, True, False, False, True, False]
    other = Schedule(3)
    other.load_state_dict(reloaded(schedule))
    assert [other.due() for _ in range(2)] == [False, True]


def test_random_numbers_follow_the_global_seed_and_go_on_from_a_state():
    torch.manual_seed(1)
    one = Random()
    torch.manual_seed(1)
    two, other = Random(), Random()
    draws = [torch.rand(4, generator=r.generator) for r in (one, two, other)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    other.load_state_dict(reloaded(one))
    assert torch.equal(torch.rand(4, generator=one.generator), torch.rand(4, generator=other.generator))


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_projection_head_is_linear_layers_with_normalisation_and_relu_between(norm, depth):
    head = projection_head(6, 10, 4, depth=depth, norm=norm)
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    widths = [6, *[10] * (depth - 1), 4]
    assert [(layer.in_features, layer.out_features) for layer in linear] == list(itertools.pairwise(widths))
    between = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.ReLU}[norm]
    assert sum(isinstance(layer, between) for layer in head) == depth - 1
    assert sum(isinstance(layer, nn.ReLU) for layer in head) == depth - 1
    assert [layer.bias is not None for layer in linear] == [norm == "none"] * (depth - 1) + [True]
    head(torch.randn(5, 6)).sum().backward()
    assert all(p.grad is not None for p in head.parameters())


def test_a_last_normalisation_has_no_scale_and_no_shift():
    head = projection_head(6, 10, 4, last_norm=True)
    out = head(torch.randn(50, 6))
    torch.testing.assert_close(out.mean(0), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.var(0, correction=0), torch.ones(4), rtol=0, atol=1e-2)
    assert list(head[-1].parameters()) == []
    assert head[-2].bias is None


def test_a_frozen_copy_shares_nothing_and_takes_no_gradient():
    head = projection_head(3, 4, 2)
    twin = frozen_copy(head)
    assert not any(p.requires_grad for p in twin.parameters())
    before = copy.deepcopy(twin.state_dict())
    with torch.no_grad():
        head[0].weight.add_(1)
    assert all(torch.equal(before[name], value) for name, value in twin.state_dict().items())
