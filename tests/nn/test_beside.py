"""Two crews give what one gives, to the bit, whoever computes it, and lose neither a value nor an error."""

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from tiny import assert_equal_states, run, tiny_encoder, tiny_rainbow, tiny_sac
from torch import nn

from curl_rl.nn import beside as crews
from curl_rl.nn.beside import begin, threads, use_threads, width
from curl_rl.nn.encoders import Encoder, encoder_config, make_encoder
from curl_rl.nn.remembering import Remembering
from curl_rl.objectives import OBJECTIVES

WIDTHS = {"wmse": {"options": {"projection_dim": 2}}}  # narrower than the batch


class Held:
    """A computation that tells when it has begun, and waits for leave to end."""

    def __init__(self):
        self.begun, self.leave, self.thread = threading.Event(), threading.Event(), ""

    def __call__(self) -> str:
        self.thread = threading.current_thread().name
        self.begun.set()
        assert self.leave.wait(60)
        return self.thread


@pytest.fixture
def held() -> Iterator[Held]:
    computation = Held()
    yield computation
    computation.leave.set()


def here() -> str:
    return threading.current_thread().name


def test_one_thread_computes_when_the_value_is_asked_for():
    use_threads(1)
    calls: list[str] = []
    value = begin(lambda: calls.append(here()))
    assert (calls, threads(), torch.get_num_threads()) == ([], 1, 1)
    value()
    assert calls == [here()]


def test_two_threads_compute_at_once():
    use_threads(2)
    seen = Held()
    value = begin(seen)
    assert seen.begun.wait(60)  # nobody has asked for it
    seen.leave.set()
    assert value() == seen.thread != here()


def test_what_the_other_crew_has_not_begun_the_caller_computes(held):
    use_threads(2)
    first, second = begin(held), begin(here)
    assert held.begun.wait(60)
    assert second() == here()
    held.leave.set()
    assert first() != here()


def test_who_waits_does_meanwhile_what_else_the_other_crew_was_given(held):
    use_threads(2)
    first = begin(held)
    assert held.begun.wait(60)
    second = begin(lambda: (held.leave.set(), here())[1])  # only its being computed ends the first
    assert first() != here()
    assert second() == here()


@pytest.mark.parametrize("number", [1, 2])
def test_an_error_reaches_who_asks_for_the_value(number):
    use_threads(number)

    def fail() -> None:
        raise ZeroDivisionError("beside")

    value, other = begin(fail), begin(here)
    with pytest.raises(ZeroDivisionError, match="beside"):
        value()
    assert other()


def test_nothing_is_held_of_what_was_asked_for():
    use_threads(2)
    tensor = torch.ones(3)
    values = [begin(tensor.sum) for _ in range(20)]
    assert [float(value()) for value in values] == [3.0] * 20
    use_threads(1)  # waits for the crew
    assert not crews._second.crew.tasks
    told = weakref.ref(tensor)
    del tensor, values
    gc.collect()
    assert told() is None


def there(compute: Callable[[], Any]) -> Any:
    """Return what the second crew computes."""
    begun = threading.Event()
    value = begin(lambda: (begun.set(), here(), compute())[1:])
    assert begun.wait(60)
    name, found = value()
    assert name != here()
    return found


@pytest.mark.parametrize(("number", "each", "used"), [(1, 1, 1), (2, 1, 2), (3, 1, 2), (4, 2, 4), (5, 2, 4), (8, 4, 8)])
def test_each_crew_has_half_of_the_threads(number, each, used):
    use_threads(number)
    assert (width(number), torch.get_num_threads(), threads()) == (each, each, used)
    assert number == 1 or there(torch.get_num_threads) == each


@pytest.mark.parametrize("tracked", [True, False])
def test_gradients_are_tracked_as_where_it_was_begun(tracked):
    weight = torch.ones(3, requires_grad=True)
    for number in (1, 2):
        use_threads(number)
        with torch.set_grad_enabled(tracked):
            value = begin(weight.sum)
        with torch.set_grad_enabled(not tracked):
            assert value().requires_grad == tracked
            assert torch.is_grad_enabled() != tracked
    with torch.set_grad_enabled(tracked):
        assert there(weight.sum).requires_grad == tracked
    assert there(torch.is_grad_enabled)


def test_who_changes_the_number_waits_for_what_was_begun():
    use_threads(2)
    values = [begin(here) for _ in range(20)]
    use_threads(4)
    assert all(value() != here() for value in values)


def test_a_forked_child_computes_alone():
    code = (
        "import os, sys, threading; from curl_rl.nn import beside; beside.use_threads(2);"
        "leave = threading.Event(); value = beside.begin(leave.wait); child = os.fork();"
        "found = [beside.begin(lambda: 7)(), beside.threads()] if not child else leave.set();"
        "os._exit(found != [7, 1]) if not child else sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=600).returncode == 0


class Counting(Encoder):
    """Keeps running means of what passes, as batch normalisation does by default."""

    def layers(self, config: Any) -> nn.Module:
        return nn.Sequential(nn.Conv2d(9, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU())


def test_only_networks_that_keep_nothing_are_begun_early(held):
    use_threads(2)
    first = begin(held)  # so that the crew comes to nothing else
    frames = torch.randint(256, (2, 3, 9, 20, 20), dtype=torch.uint8)
    counting, stack = Counting(encoder_config("small"), (9, 20, 20)), tiny_encoder()
    for encoder, begun in ((counting, 0), (stack, 1)):
        online = Remembering(encoder).begin(frames[0])
        assert len(crews._second.crew.tasks) == begun
        online(frames[0])
        online.begin(frames[1])  # never read
    held.leave.set()
    first()


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize(
    "make", [partial(tiny_sac, update="sequential"), partial(tiny_sac, update="joint"), tiny_rainbow]
)
def test_an_agent_is_the_same_after_updates_in_two_crews(make, objective):
    agents, metrics = [], []
    for number in (1, 2):
        use_threads(number)
        agents.append(agent := make(objective, **WIDTHS.get(objective, {})))
        metrics.append(run(agent, range(4)))
    assert_equal_states(*agents)
    torch.testing.assert_close(*metrics, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["paper", "strided", "canonical", "data_efficient"])
@pytest.mark.parametrize("bf16", [False, True])
def test_gradients_of_whole_images_are_the_same_in_two_crews(name, bf16):
    frames = torch.randint(256, (8, 9, 84, 84), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    found = []
    for number in (1, 2):
        use_threads(number)
        torch.manual_seed(0)
        encoder = make_encoder(encoder_config(name), (9, 84, 84), bf16=bf16)
        features = encoder(frames)
        features.square().sum().backward()
        found.append([features, *(parameter.grad for parameter in encoder.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert all(gradient.any() for gradient in found[0])


def test_each_thread_has_a_crew_of_its_own():
    use_threads(2)
    found: dict[str, Any] = {}

    def work() -> None:
        found["before"] = crews._second.crew.leader
        use_threads(1)
        found["value"] = begin(here)()

    thread = threading.Thread(target=work, name="other")
    thread.start()
    thread.join()
    assert found == {"before": None, "value": "other"}
    assert threads() == 2
    assert begin(lambda: 3)() == 3
