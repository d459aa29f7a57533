"""What changes as an agent learns, against the formulas of its sources, and what Rainbow makes of it."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from runs import assert_same
from tiny import ACTIONS, ATARI, assert_equal_states, atari_batch, copies, parameters, run, tiny_rainbow
from torch import nn

from curl_rl.agents.rainbow import Rainbow, RainbowConfig
from curl_rl.agents.schedule import Annealing, Exploration, Resets
from curl_rl.nn.remembering import Remembering
from curl_rl.objectives import OBJECTIVES, make_objective
from curl_rl.types import ConfigError, Shapes


def test_annealing_is_exponential_in_n_and_in_the_horizon():
    anneal = Annealing(updates=10_000, n_step=3, discount=0.997)
    for updates in (0, 1, 2_500, 5_000, 9_999, 10_000, 50_000):
        share = min(updates / 10_000, 1)
        n, discount = 10 * (3 / 10) ** share, 1 - 0.03 * (0.003 / 0.03) ** share
        assert anneal.at(10, 0.97, updates) == (round(n), pytest.approx(discount, rel=1e-12)), updates
    assert [anneal.at(10, 0.97, updates)[0] for updates in (0, 10_000)] == [10, 3]
    assert anneal.at(10, 0.97, 5_000)[1] == pytest.approx(1 - math.sqrt(0.03 * 0.003))
    assert Annealing().at(20, 1.0, 10**6) == (20, 1.0)


def test_exploration_falls_in_a_line_and_stays():
    explore = Exploration(epsilon=0.01, steps=200)
    assert [explore.at(steps) for steps in (0, 50, 100, 200, 10_000)] == pytest.approx([1, 0.7525, 0.505, 0.01, 0.01])
    assert Exploration(epsilon=0.2).at(0) == 0.2
    assert Exploration().at(0) == 0


def test_resets_come_every_so_often_until_they_end():
    resets = Resets(every=40, until=100)
    assert [count for count in range(1, 10**3) if resets.due(count)] == [40, 80]
    assert [count for count in range(1, 100) if Resets(every=30).due(count)] == [30, 60, 90]
    assert not any(Resets().due(count) for count in range(1, 100))


def test_resets_by_agent_step_come_early_and_annealing_with_them():
    fields = {"anneal": Annealing(4, 2, 0.99), "resets": Resets(every=5, until=10), "noise_std": 0.0}
    agent, fresh, wanted = tiny_rainbow(n_step=8, discount=0.9, offset=3, **fields), [], []
    for i in range(1, 15):
        wanted.append(agent.n_step)
        run(agent, range(i, i + 1))
        fresh.append(not agent.optimizers["all"].state)
    assert [i for i, new in enumerate(fresh, start=1) if new] == [2, 7]  # counts of 5 and 10
    assert wanted == [8, 6, 8, 6, 4, 3, 2, 8, 6, 4, 3, 2, 2, 2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"n_step": 2, "anneal": Annealing(5)},
            r"agent\.anneal\.n_step=3 exceeds agent\.n_step=2.*lower the one",
        ),
        (
            {"discount": 0.998, "anneal": Annealing(5)},
            r"agent\.anneal\.discount=0\.997 is below agent\.discount=0\.998.*raise the one",
        ),
        ({"discount": 1.0, "anneal": Annealing(5)}, r"agent\.discount=1 has no horizon to anneal: lower it"),
        (
            {"target_acts": True, "target_tau": 1.0, "target_period": 1},
            r"agent\.target_acts=true has no effect with agent\.target_tau=1 and agent\.target_period=1.*change one",
        ),
        ({"atoms": 1, "v_max": 50.0}, r"no effect with agent\.atoms=1: leave them at -10 and 10"),
    ],
)
def test_a_schedule_that_cannot_be_kept_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        RainbowConfig(**{"n_step": 10, **fields})


def test_the_agent_wants_what_the_schedule_says_and_starts_again_at_a_reset():
    agent = tiny_rainbow(n_step=8, discount=0.9, anneal=Annealing(4, 2, 0.99), resets=Resets(every=6))
    wanted = []
    for i in range(8):
        wanted.append((agent.n_step, agent.discount))
        run(agent, range(i, i + 1))
    one_cycle = [(round(8 * 0.25 ** (i / 4)), 1 - 0.1 * 0.1 ** (i / 4)) for i in range(5)]
    one_cycle.append(one_cycle[-1])
    expected = one_cycle + one_cycle[:2]
    assert [n for n, _ in wanted] == [n for n, _ in expected] == [8, 6, 4, 3, 2, 2, 8, 6]
    assert [discount for _, discount in wanted] == pytest.approx([discount for _, discount in expected])


# exploring


def test_a_share_of_actions_is_random_and_none_where_the_agent_is_judged():
    agent = tiny_rainbow(noise_std=0.0, explore=Exploration(epsilon=0.3))
    obs = atari_batch(size=1).obs.expand(4_000, *ATARI).numpy()
    calm = agent.act(obs, explore=False)
    assert len(set(calm.tolist())) == 1
    others = (agent.act(obs, explore=True) != calm).mean()
    share = 0.3 * (ACTIONS - 1) / ACTIONS
    assert abs(others - share) < 4 * math.sqrt(share * (1 - share) / 4_000)


def test_it_explores_less_with_every_step_that_explores():
    agent = tiny_rainbow(noise_std=0.0, explore=Exploration(epsilon=0, steps=3))
    obs = atari_batch(size=1).obs.expand(2_000, *ATARI).numpy()
    calm = agent.act(obs, explore=False)
    others = [float((agent.act(obs, explore=True) != calm).mean()) for _ in range(5)]
    assert others[:3] == pytest.approx([1 / 2, 1 / 3, 1 / 6], abs=0.05)
    assert others[3:] == [0, 0]


def test_without_noise_nothing_is_drawn_and_no_layer_has_any():
    agent = tiny_rainbow(noise_std=0.0)
    before, obs = agent.generator.get_state(), atari_batch().obs.numpy()
    actions = [agent.act(obs, explore=explore).tolist() for explore in (True, False)]
    assert actions[0] == actions[1]
    run(agent, range(2))
    assert torch.equal(agent.generator.get_state(), before)
    assert not [name for name in parameters(agent) if "_std" in name]
    assert not dict(agent.heads.named_buffers())


def test_the_target_acts_where_it_is_asked_to():
    agent, obs = tiny_rainbow(noise_std=0.0, target_acts=True), atari_batch(size=16).obs.numpy()
    for heads, best in ((agent.heads, 0), (agent.target_heads, 1)):
        for p in heads.parameters():
            p.data.zero_()
        heads.advantage.bias.data.view(heads.shape)[best, -1] = 200
    assert agent.act(obs, explore=False).tolist() == agent.act(obs, explore=True).tolist() == [1] * 16


@pytest.mark.parametrize("acts", [False, True])
def test_noise_is_new_at_every_step_for_what_learns_and_what_acts(acts):
    agent, batch, seen = tiny_rainbow(target_acts=acts), atari_batch(), []
    for _ in range(3):
        agent.act(batch.obs.numpy(), explore=True)
        agent.update(batch)
        seen.append([heads.value_hidden.noise_in.clone() for heads in (agent.heads, agent.target_heads)])
    learning, acting = zip(*seen, strict=True)
    for drawn in (learning, acting):
        assert not any(torch.equal(one, other) for one, other in itertools.pairwise(drawn))
        assert all(noise.any() for noise in drawn)


def test_after_a_reset_the_new_heads_have_noise_for_the_steps_further_updates():
    agent = tiny_rainbow(resets=Resets(every=2), target_acts=True)
    run(agent, range(2))
    assert all(buffer.any() for buffer in agent.heads.buffers())


# the target


def test_the_target_moves_by_its_tau():
    agent = tiny_rainbow(target_period=2, target_tau=0.3)
    for i in range(1, 5):
        before = copies(agent, "target_network")
        run(agent, range(i, i + 1))
        for name, p in copies(agent, "encoder", "heads").items():
            then = before[f"target_network.{name}"]
            expected = then if i % 2 else 0.7 * then + 0.3 * p
            now = parameters(agent)[f"target_network.{name}"].detach()
            torch.testing.assert_close(now, expected, rtol=1e-5, atol=1e-7)


def test_an_offset_makes_the_first_step_early():
    agent, copied = tiny_rainbow(target_period=5, offset=3), []
    for i in range(1, 13):
        before = copies(agent, "target_network")
        run(agent, range(i, i + 1))
        copied.append(any(not torch.equal(p, before[name]) for name, p in copies(agent, "target_network").items()))
    assert [i for i, moved in enumerate(copied, start=1) if moved] == [2, 7, 12]


# what is learned


def test_one_atom_is_the_mean_learned_by_hubers_loss():
    agent, batch = tiny_rainbow("none", atoms=1, noise_std=0.0, target_period=1000), atari_batch()
    agent.heads.advantage.bias.data.copy_(torch.tensor([0.0, 3.0]))
    online, target = agent.learner.encoder, agent.target_network["encoder"]
    with torch.no_grad():
        best = agent.heads(online(batch.next_obs))[..., 0].argmax(1)
        later = agent.target_heads(target(batch.next_obs))[torch.arange(6), best, 0]
        goal = batch.reward + batch.discount * later
        error = agent.heads(online(batch.obs))[torch.arange(6), batch.action, 0] - goal
    losses = torch.where(error.abs() <= 1, 0.5 * error**2, error.abs() - 0.5)
    assert set((error.abs() <= 1).tolist()) == {True, False}
    memory = Remembering(online)
    torch.testing.assert_close(agent._value_losses(batch, (batch.obs,), (batch.next_obs,), memory)[0], losses)
    metrics, priorities = agent.update(batch)
    torch.testing.assert_close(priorities, losses)
    assert float(metrics["value_loss"]) == pytest.approx(float(losses.mean()), rel=1e-5)


def test_shared_heads_have_one_hidden_layer():
    heads = tiny_rainbow(shared=True).heads
    assert [name for name, _ in heads.named_children()] == ["value_hidden", "value", "advantage"]
    x = torch.randn(4, heads.value_hidden.weight.shape[1])
    with torch.no_grad():
        hidden = heads.value_hidden(x, noisy=True).relu()
        advantage = heads.advantage(hidden, noisy=True).view(4, ACTIONS, 51)
        expected = heads.value(hidden, noisy=True)[:, None] + advantage - advantage.mean(1, keepdim=True)
        torch.testing.assert_close(heads(x), expected)
        torch.testing.assert_close(heads.formed()(x), expected)


def test_weights_decay_and_vectors_do_not():
    plain, decaying = (tiny_rainbow(weight_decay=decay, learning_rate=0.01) for decay in (0.0, 0.5))
    trained = [name for name, p in parameters(plain).items() if p.requires_grad]
    before = copies(plain)
    for agent in (plain, decaying):
        run(agent, range(1))
    after, decayed = copies(plain), copies(decaying)
    for name in trained:
        p = before[name]
        if p.dim() > 1:
            torch.testing.assert_close(decayed[name], after[name] - 0.01 * 0.5 * p, rtol=1e-4, atol=1e-6)
            assert not torch.equal(decayed[name], after[name]), name
        else:
            assert torch.equal(decayed[name], after[name]), name


def test_no_gain_or_shift_or_bias_of_an_objective_decays():
    agent = tiny_rainbow("spr", options={"projection_dim": 8}, weight_decay=0.5)
    names = {id(p): name for name, p in agent.learner.objective.named_parameters()}
    weights, vectors = agent.optimizers["all"].param_groups
    assert (weights["weight_decay"], vectors["weight_decay"]) == (0.5, 0)
    assert all(names.get(id(p), "weight").endswith("weight") for p in weights["params"])
    assert {"scale", "shift", "bias"} <= {names[id(p)].split(".")[-1] for p in vectors["params"] if id(p) in names}


def test_gradients_are_clipped_unless_the_norm_is_zero():
    norms = []
    for norm in (0.0, 1e-3):
        agent = tiny_rainbow(max_grad_norm=norm)
        metrics, _ = agent.update(atari_batch())
        grads = [p.grad for p in agent.trained if p.grad is not None]
        norms.append((float(metrics["grad_norm"]), float(nn.utils.get_total_norm(grads))))
    (whole, kept), (same, clipped) = norms
    assert whole == pytest.approx(kept) == pytest.approx(same)
    assert clipped == pytest.approx(1e-3, rel=1e-3)


# resets


def resetting(objective: str = "curl", **fields) -> Rainbow:
    return tiny_rainbow(objective, **{"resets": Resets(every=3, until=7, keep=0.25), "noise_std": 0.0, **fields})


def test_a_reset_renews_heads_and_objective_and_mixes_the_encoders():
    agent, twin = resetting(), resetting(resets=Resets())
    for each in (agent, twin):
        run(each, range(2))
    generator = agent.generator.clone_state()
    for each in (agent, twin):
        run(each, range(2, 3))
    torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
    encoder = agent.learner.encoder
    mixed = [encoder.fresh(), encoder.fresh()]
    objective = make_objective(agent.learner.objective.config, agent.learner.objective.shapes)
    mixed.append(encoder.fresh())
    heads = [agent.networks(agent.config, encoder, ACTIONS)[0] for _ in range(2)]
    now = (encoder, agent.learner.target_encoder, agent.target_network["encoder"])
    then = (twin.learner.encoder, twin.learner.target_encoder, twin.target_network["encoder"])
    for mine, former, fresh in zip(now, then, mixed, strict=True):
        for p, old, new in zip(mine.parameters(), former.parameters(), fresh.parameters(), strict=True):
            torch.testing.assert_close(p.detach(), (0.25 * old + 0.75 * new).detach(), rtol=1e-5, atol=1e-6)
    renewed = ((agent.heads, heads[0]), (agent.target_heads, heads[1]), (agent.learner.objective, objective))
    for mine, fresh in renewed:
        assert_same(dict(mine.state_dict()), dict(fresh.state_dict()))
    assert not agent.optimizers["all"].state
    assert len(twin.optimizers["all"].state) == len(twin.trained)


def test_resets_end_and_learning_goes_on_after_each():
    agent = resetting()
    emptied = []
    for i in range(1, 11):
        before = copies(agent, "encoder", "heads", "objective")
        run(agent, range(i, i + 1))
        emptied.append(not agent.optimizers["all"].state)
        moved = [not torch.equal(p, before[name]) for name, p in copies(agent, *("encoder", "heads")).items()]
        assert all(moved)
    assert [i for i, empty in enumerate(emptied, start=1) if empty] == [3, 6]


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "none"])
def test_every_objective_starts_anew(objective):
    shapes = Shapes(64, (64, 4, 4), ACTIONS, True, 28, (2.0, 5.0))
    torch.manual_seed(0)
    loss = make_objective(OBJECTIVES[objective].Config(), shapes)
    for tensor in loss.state_dict().values():
        if torch.is_tensor(tensor) and tensor.is_floating_point():
            tensor.add_(1)
    other = make_objective(OBJECTIVES[objective].Config(), shapes)
    before = copy.deepcopy(other.state_dict())
    torch.manual_seed(1)
    loss.reset(0.0)
    torch.manual_seed(1)
    fresh = make_objective(OBJECTIVES[objective].Config(), shapes)
    assert_same(dict(loss.state_dict()), dict(fresh.state_dict()))
    assert_same(dict(other.state_dict()), dict(before))


def test_sprs_transition_keeps_the_encoders_share():
    shapes = Shapes(64, (8, 4, 4), ACTIONS, True)
    loss = make_objective(OBJECTIVES["spr"].Config(projection_dim=8), shapes)
    before = copy.deepcopy(loss.state_dict())
    torch.manual_seed(1)
    loss.reset(0.75)
    torch.manual_seed(1)
    fresh = make_objective(loss.config, shapes).state_dict()
    for name, p in loss.state_dict().items():
        kept = 0.75 if name.startswith("transition.") else 0.0
        torch.testing.assert_close(p, kept * before[name] + (1 - kept) * fresh[name], rtol=1e-5, atol=1e-6)


def test_an_agent_restored_before_a_reset_goes_on_alike():
    fields = {"explore": Exploration(0.1, 10), "anneal": Annealing(4, 1, 0.99), "target_tau": 0.1, "target_period": 1}
    agent, obs = resetting(weight_decay=0.1, **fields), atari_batch(size=3).obs.numpy()
    for i in range(2):
        agent.act(obs, explore=True)
        run(agent, range(i, i + 1))
    restored = resetting(seed=9, weight_decay=0.1, **fields)
    restored.load_state_dict(copy.deepcopy(agent.state_dict()))
    for i in range(2, 9):
        assert np.array_equal(*(each.act(obs, explore=True) for each in (agent, restored)))
        assert (agent.n_step, agent.discount) == (restored.n_step, restored.discount)
        for each in (agent, restored):
            run(each, range(i, i + 1))
        assert_equal_states(agent, restored)
