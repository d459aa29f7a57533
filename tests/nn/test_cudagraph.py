"""Updates captured as CUDA graphs equal eager ones; without CUDA the switch changes nothing."""

import copy

import pytest
import torch
from tiny import atari_batch, parameters, run, tiny_batch, tiny_rainbow, tiny_sac
from torch import Tensor

from curl_rl.agents.rainbow import Rainbow
from curl_rl.agents.sac import Sac
from curl_rl.nn.cudagraph import Captured

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")


def train(agent: Sac | Rainbow, updates: range) -> list[dict[str, Tensor]]:
    results = []
    for i in updates:
        batch = (atari_batch if isinstance(agent, Rainbow) else tiny_batch)(i, device=agent.device.type)
        agent.act(batch.obs[:1].cpu().numpy(), explore=True)
        metrics, priorities = agent.update(batch)
        values = metrics if priorities is None else {**metrics, "priorities": priorities}
        results.append({name: value.clone() for name, value in values.items()})  # a graph overwrites its outputs
    return results


def assert_close_agents(one: Sac | Rainbow, other: Sac | Rainbow) -> None:
    theirs = parameters(other)
    for name, p in parameters(one).items():
        torch.testing.assert_close(p, theirs[name], rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@on_cuda
@pytest.mark.parametrize("objective", ["curl", "none"])
@pytest.mark.parametrize("update", ["joint", "sequential"])
def test_captured_updates_equal_eager_ones(update, objective):
    fields = {"update": update, "device": "cuda", "target_period": 3}
    eager, captured = tiny_sac(objective, **fields), tiny_sac(objective, capture=True, **fields)
    assert isinstance(captured._step, Captured)
    expected, results = train(eager, range(30)), train(captured, range(30))
    assert len(captured._step._graphs) == 4  # actor and average, each on or off: all past their warm-up
    for one, two in zip(expected, results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-3)
    assert_close_agents(eager, captured)


@on_cuda
@pytest.mark.parametrize("objective", ["curl", "none"])
def test_rainbow_captured_equals_eager(objective):
    """Noise is drawn and the target copied between replays, in place, so that one graph sees both."""
    fields = {"device": "cuda", "target_period": 7, "priority": "total", "adam_epsilon": 1.5e-4}
    eager, captured = tiny_rainbow(objective, **fields), tiny_rainbow(objective, capture=True, **fields)
    assert isinstance(captured._step, Captured)
    expected, results = train(eager, range(30)), train(captured, range(30))
    assert len(captured._step._graphs) == 1
    for one, two in zip(expected, results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-3)
    assert torch.equal(eager.generator.get_state(), captured.generator.get_state())
    assert_close_agents(eager, captured)


@on_cuda
@pytest.mark.parametrize("tiny", [tiny_sac, tiny_rainbow])
def test_a_captured_agent_that_loads_a_state_goes_on_from_it(tiny):
    captured, eager = tiny(capture=True, device="cuda"), tiny(device="cuda")
    train(captured, range(12))
    state = copy.deepcopy(captured.state_dict())
    train(captured, range(12, 16))
    for agent in (captured, eager):
        agent.load_state_dict(copy.deepcopy(state))
        train(agent, range(20, 32))
    assert_close_agents(eager, captured)


@on_cuda
def test_a_graph_reads_new_inputs_and_each_combination_of_flags_has_its_own():
    def step(x: Tensor, double: bool) -> dict[str, Tensor]:
        return {"y": x * 2 if double else x + 1}

    captured = Captured(step, warmup=1)
    for i in range(5):
        x = torch.full((3,), float(i), device="cuda")
        assert captured(x, flags=(True,))["y"].tolist() == [2.0 * i] * 3
        assert captured(x, flags=(False,))["y"].tolist() == [i + 1.0] * 3
    assert set(captured._graphs) == {(True,), (False,)}


@on_cuda
@pytest.mark.parametrize(("tiny", "draw"), [(tiny_sac, tiny_batch), (tiny_rainbow, atari_batch)])
def test_an_update_on_cuda_never_waits_for_the_device(tiny, draw):
    agent, batch = tiny(device="cuda", target_period=1), draw(device="cuda")
    agent.update(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        metrics = agent.update(batch).metrics
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(value.device.type == "cuda" for value in metrics.values())


@pytest.mark.parametrize("tiny", [tiny_sac, tiny_rainbow])
def test_without_cuda_the_switch_changes_nothing(tiny):
    agent, captured = tiny(), tiny(capture=True)
    for one, two in zip(run(agent, range(3)), run(captured, range(3)), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
