"""The number of threads is measured before a run, told, kept, and changes nothing else of it."""

import json

import pytest
import torch
from runs import SMALL, rows, state

from curl_rl.config.overrides import compose
from curl_rl.nn import beside
from curl_rl.run import threads, trainer
from curl_rl.run.assembly import make_environment
from curl_rl.run.stored import load_config
from curl_rl.run.threads import candidates, choose_threads, fewest
from curl_rl.run.trainer import train


@pytest.fixture(autouse=True)
def numbers(monkeypatch) -> list[int]:
    """The numbers of threads that were set; real ones would wait for the cores that other tests keep busy."""
    seen: list[int] = []
    monkeypatch.setattr(beside, "use_threads", seen.append)
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    monkeypatch.setattr(threads, "ROUNDS", 1)
    return seen


@pytest.mark.parametrize(
    ("cores", "numbers"), [(1, [1]), (2, [1, 2]), (3, [1, 2]), (8, [1, 2, 4, 6, 8]), (13, [1, 2, 4, 8, 12])]
)
def test_powers_of_two_all_cores_and_some_fewer_are_tried(cores, numbers):
    assert candidates(cores) == numbers


@pytest.mark.parametrize(
    ("seconds", "number"),
    [
        ({1: 0.060, 2: 0.065}, 1),
        ({1: 0.060, 2: 0.059}, 2),  # the same bits
        ({1: 1.0, 2: 0.8, 4: 0.57}, 2),
        ({1: 0.8, 2: 0.9, 4: 0.57}, 1),
        ({1: 1.0, 2: 0.8, 4: 0.55}, 4),
        ({1: 1.0, 2: 0.8, 4: 0.55, 8: 0.5}, 4),
        ({1: 0.01}, 1),
    ],
)
def test_operations_get_more_threads_only_where_those_save_three_tenths(seconds, number):
    assert fewest(seconds) == number


@pytest.mark.parametrize("task", ["task=toy/reach", "task=toy/grid preset=rainbow objective=spr"])
def test_whole_steps_are_measured_at_each_number(numbers, task):
    config = compose([*task.split(), "threads=0", "batch_size=4"])
    chosen, told = choose_threads(config, make_environment(config), torch.device("cpu"))
    assert told["threads"] == chosen.threads == numbers[-1]
    assert numbers == [1, 2, 1, 2, chosen.threads]  # a round to warm up, a round that counts
    assert list(told["seconds_per_step"]) == ["1", "2"]
    assert all(0 < seconds < 60 for seconds in told["seconds_per_step"].values())


def test_a_number_that_was_given_is_not_measured(numbers, monkeypatch):
    monkeypatch.setattr(threads, "_measure", None)
    config = compose(["task=toy/reach", "threads=1"])
    env = make_environment(config)
    assert choose_threads(config, env, torch.device("cpu"))[0] == config
    unlimited = compose(["task=toy/reach", "threads=0"])
    assert choose_threads(unlimited, env, torch.device("cuda"))[0] == unlimited
    monkeypatch.setattr(threads, "usable_cores", lambda: 1)
    assert choose_threads(unlimited, env, torch.device("cpu"))[0] == unlimited
    assert numbers == []


def test_torch_is_prepared_before_an_environment_can_load_a_renderer(numbers, tmp_path, monkeypatch):
    # Mesa's LLVM first and Triton's second end the process; Mesa's threads inherit how denormal numbers are taken.
    order: list[str] = []
    for name in ("prepare_torch", "make_environment"):
        monkeypatch.setattr(trainer, name, told(order, name, getattr(trainer, name)))
    assert train(compose([*SMALL, f"run_dir={tmp_path / 'run'}", "threads=1"])) == 0
    assert order[:2] == ["prepare_torch", "make_environment"]


def told(order, name, function):
    return lambda *arguments, **options: (order.append(name), function(*arguments, **options))[1]


def test_what_was_chosen_is_kept_by_a_resume_and_measuring_changes_no_result(numbers, tmp_path, monkeypatch):
    named, left, part = (tmp_path / name for name in ("named", "left", "part"))
    assert train(compose([*SMALL, f"run_dir={named}", "threads=1"])) == 0
    monkeypatch.setattr(threads, "fewest", lambda seconds: 1)
    assert train(compose([*SMALL, f"run_dir={left}", "threads=0"])) == 0
    assert rows(left) == rows(named)
    torch.testing.assert_close(state(left)["agent"], state(named)["agent"], rtol=0, atol=0)
    assert load_config(left).threads == 1
    start = json.loads((left / "metadata.json").read_text())["starts"][0]
    assert start["threads"] == 1
    assert set(start["seconds_per_step"]) == {"1", "2"}

    with monkeypatch.context() as stopped:
        stopped.setattr("curl_rl.run.trainer.Trainer._evaluate", lambda self: setattr(self.stop, "signal", 15))
        train(compose([*SMALL, f"run_dir={part}", "threads=0"]))
    monkeypatch.setattr(threads, "_measure", None)
    assert train(compose([*SMALL, f"run_dir={part}", "threads=0"])) == 0
    assert load_config(part).threads == 1
    assert rows(part) == rows(named)
