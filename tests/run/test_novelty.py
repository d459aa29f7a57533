"""How unlike evaluation frames are to replayed ones: against a naive twin, and that watching changes nothing."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_batch, tiny_sac

from curl_rl.config.overrides import compose
from curl_rl.nn.novelty import neighbour_distances
from curl_rl.run.novelty import Watched
from curl_rl.run.trainer import train

CPU = torch.device("cpu")


def sampler(episodes: int = 8):
    """Return what draws from a replay of noise, and a list of what it has drawn."""
    drawn = []

    def sample(size: int, rng: np.random.Generator):
        batch = tiny_batch(int(rng.integers(1000)), size=size, obs_shape=(9, 20, 20))
        drawn.append(batch._replace(episode=torch.arange(size) % episodes))
        return drawn[-1]

    return sample, drawn


def test_it_tells_what_loops_over_all_pairs_do():
    agent, (sample, drawn) = tiny_sac(), sampler()
    watched = Watched(agent, CPU)
    shown = [tiny_batch(50 + seed, size=5, obs_shape=(9, 20, 20)).obs for seed in range(4)]
    shown[3] //= 4  # darker than anything replayed
    for obs in shown:
        assert np.array_equal(watched.act(obs.numpy(), explore=False), agent.act(obs.numpy(), explore=False))
    found = watched.novelty(sample, 450, seed=3)
    assert [len(batch.obs) for batch in drawn] == [200, 200]
    rng = np.random.default_rng(3)
    for _ in drawn:
        rng.integers(1000)
    held_out = rng.permutation(8) % 2 == 1
    features, episodes = torch.cat([agent.learner.encoder(b.obs) for b in drawn]), torch.cat([b.episode for b in drawn])
    apart = torch.from_numpy(held_out)[episodes]

    def fifth(rows: torch.Tensor) -> np.ndarray:
        known = features[~apart] / features[~apart].norm(dim=1, keepdim=True)
        rows = rows / rows.norm(dim=1, keepdim=True)
        return np.array([sorted(float((row - other).norm()) for other in known)[4] for row in rows])

    with torch.no_grad():
        seen, limit = fifth(agent.learner.encoder(torch.cat(shown))), np.sort(fifth(features[apart]))
    share = np.mean(seen > limit[int(np.ceil(0.95 * len(limit))) - 1] + 1e-6)
    wanted = {"novelty_mean": seen.mean(), "novelty_max": seen.max(), "novelty_share": share}
    assert found == pytest.approx(wanted, abs=1e-4)


def test_too_few_frames_or_episodes_tell_nothing():
    for available, episodes in ((4, 4), (100, 1)):
        watched = Watched(tiny_sac(), CPU)
        watched.act(tiny_batch(obs_shape=(9, 20, 20)).obs.numpy(), explore=False)
        assert watched.novelty(sampler(episodes)[0], available, seed=0) == {}


def test_frames_that_were_replayed_are_near_and_others_far():
    known = torch.randn(200, 6) + torch.tensor([9.0, 0, 0, 0, 0, 0])
    near, far = neighbour_distances(known[:20] * 1.001, known), neighbour_distances(-known[:20], known)
    assert near.max() < far.min()
    many = neighbour_distances(known.repeat(3, 1), known)
    torch.testing.assert_close(many[:200], many[400:])


def table(path: Path) -> list[list[str]]:
    with path.open() as file:
        return list(csv.reader(file))


RUNS = [("toy/reach", []), ("toy/grid", ["preset=rainbow"])]


@pytest.mark.parametrize(("task", "more"), RUNS, ids=["sac", "rainbow"])
def test_a_run_tells_its_novelty_and_is_otherwise_the_same(task, more, tmp_path):
    settings = [f"task={task}", *more, "budget_frames=240", "random_steps=60", "evaluation.every_frames=120"]
    settings += ["evaluation.episodes=1", "device=cpu", "threads=1", "env.overlap=false", "log.every_updates=50"]
    tables = {}
    for novelty in ("false", "true"):
        run_dir = tmp_path / novelty
        assert train(compose([*settings, f"novelty={novelty}", f"run_dir={run_dir}"])) == 0
        rows = [row for row in table(run_dir / "train.csv") if "frames_per_second" not in row]
        tables[novelty] = rows, [row[:5] for row in table(run_dir / "eval.csv")]
    told = [row for row in tables["true"][0] if row[3].startswith("novelty_")]
    assert {row[3] for row in told} == {"novelty_mean", "novelty_max", "novelty_share"}
    assert all(0 <= float(row[4]) <= 2 for row in told)
    assert [row for row in tables["true"][0] if row not in told] == tables["false"][0]
    assert tables["true"][1] == tables["false"][1]
