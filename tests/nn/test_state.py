"""What is collected of an object is what is put back: in place where something holds it, as a value where it is one."""

import copy

import pytest
import torch
from torch import nn

from curl_rl.nn.state import Kept
from curl_rl.types import ConfigError


class Owner(Kept):
    kept = ("network", "optimizers", "generator", "temperature", "updates")

    def __init__(self, seed: int):
        torch.manual_seed(seed)
        self.network = nn.Linear(3, 2)
        self.optimizers = {"all": torch.optim.Adam(self.network.parameters())}
        self.generator = torch.Generator().manual_seed(seed)
        self.temperature = nn.Parameter(torch.rand(()))
        self.updates = seed
        self.left_out = seed

    def step(self) -> list[torch.Tensor]:
        self.optimizers["all"].zero_grad()
        self.network(torch.rand(5, 3, generator=self.generator)).sum().mul(self.temperature).backward()
        self.optimizers["all"].step()
        self.updates += 1
        return [parameter.detach().clone() for parameter in self.network.parameters()]


def test_what_is_restored_goes_on_bit_for_bit_and_is_the_same_object():
    one, other = Owner(1), Owner(2)
    for _ in range(3):
        one.step()
    held = other.temperature, other.network, other.optimizers["all"]
    other.load_state_dict(copy.deepcopy(one.state_dict()))  # as through a file
    assert (other.updates, other.left_out) == (4, 2)
    assert held[0] is other.temperature
    assert held[1] is other.network
    assert held[2] is other.optimizers["all"]
    assert torch.equal(other.temperature, one.temperature)
    assert all(torch.equal(left, right) for left, right in zip(one.step(), other.step(), strict=True))


def test_an_optimiser_keeps_its_own_settings_and_takes_moments():
    one, other = Owner(1), Owner(2)
    one.step()
    other.optimizers["all"] = torch.optim.Adam(other.network.parameters(), lr=0.5, eps=0.25, weight_decay=0.125)
    other.load_state_dict(one.state_dict())
    (group,) = other.optimizers["all"].param_groups
    assert (group["lr"], group["eps"], group["weight_decay"]) == (0.5, 0.25, 0.125)
    moments = (owner.optimizers["all"].state[owner.network.weight]["exp_avg"] for owner in (one, other))
    assert torch.equal(*moments)


def test_numbers_tensors_and_generators_are_copies():
    owner = Owner(1)
    kept = owner.state_dict()
    drawn, temperature = torch.rand(4, generator=owner.generator), owner.temperature.item()
    with torch.no_grad():
        owner.temperature.zero_()
    owner.updates = 99
    owner.load_state_dict(kept)
    assert owner.updates == 1
    assert owner.temperature.item() == temperature
    assert torch.equal(torch.rand(4, generator=owner.generator), drawn)


def test_a_state_of_other_parts_is_refused_with_the_part():
    owner, state = Owner(1), Owner(1).state_dict()
    state["network"] = nn.Linear(4, 2).state_dict()
    with pytest.raises(ConfigError, match=r"network cannot take its state back .*size mismatch for weight"):
        owner.load_state_dict(state)
    with pytest.raises(ConfigError, match="network cannot take its state back"):
        owner.load_state_dict({})
    state = Owner(1).state_dict()
    state["optimizers"]["all"]["param_groups"] *= 2
    with pytest.raises(ConfigError, match="optimizers cannot take its state back"):
        owner.load_state_dict(state)
