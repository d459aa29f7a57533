"""How well frozen features predict the simulator's state, after an objective alone has trained the encoder."""

import functools
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from comparison.recordings import Recording, read
from comparison.tables import finite_mean, gather, merge_rows, ranking, read_rows
from curl_rl.config.schema import Config
from curl_rl.nn.remembering import Remembering
from curl_rl.objectives.learner import Learner
from curl_rl.replay.replay import Replay
from curl_rl.representation.probes.base import shrunk
from curl_rl.representation.probes.regression import r2_scores, share_out
from curl_rl.run.assembly import make_environment, make_learner, make_replay, make_stack
from curl_rl.run.device import prepare_torch
from curl_rl.run.rollout import FrameStack, Lane, Rollout
from curl_rl.run.stored import make_protocol
from curl_rl.types import ConfigError

PIXELS = "pixels"  # the floor that has no encoder
KEY = ("task", "objective", "seed", "updates", "frames")  # columns that name a job
_CPU = torch.device("cpu")


class Job(NamedTuple):
    """One encoder to train and probe, or the pixels themselves."""

    name: str
    config: Config
    folder: Path
    frames: int
    updates: int

    @property
    def key(self) -> tuple[str, ...]:
        """Return its values of KEY, as a CSV file gives them back."""
        return self.config.task, self.name, str(self.config.seed), str(self.updates), str(self.frames)


@functools.lru_cache(maxsize=1)
def _recordings(folder: Path, frames: int) -> list[Recording]:
    return list(read(folder, frames))


def fill(replay: Replay, recordings: Sequence[Recording], reward_clip: float) -> None:
    """Store episodes as a run would have."""
    for recording in recordings:
        played = Rollout(recording.played(), FrameStack(1, "repeat"), replay, seed=0, reward_clip=reward_clip)
        played.begin(0)
        for action in recording.action:
            played.send(action)
            played.receive()


def train(learner: Learner, replay: Replay, config: Config, updates: int) -> list[float]:
    """Train a learner by its objective alone, with the run's batches and step sizes; return the losses."""
    if not learner.learns:
        return []
    optimizer = torch.optim.Adam(learner.parameter_groups(), eps=learner.pace.epsilon, fused=True)
    rng, losses = np.random.default_rng(config.seed), []
    for update in range(updates):
        batch, views = learner.views(replay.sample(config.batch_size, rng, config.agent.n_step, config.agent.discount))
        loss, metrics = learner.loss(batch, views, Remembering(learner.encoder))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if update % learner.pace.period == 0:
            learner.move_target()
        learner.after_step()
        losses.append(metrics["objective_loss"])
    return torch.stack(losses).tolist()


def observations(recordings: Sequence[Recording], config: Config) -> Iterator[Tensor]:
    """Yield each episode's stacked observations (T + 1, k*C, H, W) uint8 as the agent meets them."""
    for recording in recordings:
        played = Lane(recording.played(), make_stack(config))
        played.reset(0)
        stacked = [played.stack.observation()]
        for action in recording.action:
            played.send(action)
            played.receive()
            stacked.append(played.stack.observation())
        yield torch.from_numpy(np.stack(stacked))


@torch.no_grad()
def encode(learner: Learner, images: Tensor) -> dict[str, Tensor]:
    """Return features (n, d) and, where they are not the same, the flat convolutional map, of raw images."""
    conv = learner.encoder.conv(learner.whole(images))
    features = learner.encoder.head(conv)
    same = features.shape == conv.flatten(1).shape
    return {"features": features} if same else {"features": features, "conv": conv.flatten(1)}


def scores(recordings: Sequence[Recording], config: Config, look: Callable[[Tensor], dict[str, Tensor]]):
    """Yield (layer, quantity, R2) of what `look` makes of each episode's images."""
    seen = [look(images) for images in observations(recordings, config)]
    fold = share_out(np.repeat(np.arange(len(recordings)), [len(each.frame) for each in recordings]))
    state = np.concatenate([recording.state for recording in recordings])
    for layer in seen[0]:
        r2 = r2_scores(torch.cat([each[layer] for each in seen]).numpy(), state, fold)
        yield from ((layer, name, score) for name, score in zip(recordings[0].names, r2.tolist(), strict=True))


def run_job(job: Job) -> list[dict[str, Any]]:
    """Train and probe one encoder; return a row for each layer and quantity."""
    prepare_torch(1)
    torch.manual_seed(job.config.seed)
    recordings, start, losses, seconds = _recordings(job.folder, job.frames), time.perf_counter(), [], 0.0
    look = shrunk
    if job.name != PIXELS:
        learner, replay = _make_parts(job.config, recordings)
        start = time.perf_counter()
        losses = train(learner, replay, job.config, job.updates)
        seconds = time.perf_counter() - start
        look = functools.partial(encode, learner)
    tail = losses[-max(1, len(losses) // 10) :]
    told = {"loss": finite_mean(tail), "train_seconds": round(seconds, 1)}
    key = dict(zip(KEY, job.key, strict=True))
    return [
        {**key, "layer": layer, "quantity": name, "r2": r2, **told}
        for layer, name, r2 in scores(recordings, job.config, look)
    ]


def _make_parts(config: Config, recordings: Sequence[Recording]) -> tuple[Learner, Replay]:
    """Build the run's own learner and replay, and fill the replay."""
    if "labels" in config.objective.needs and not all(recording.labels.size for recording in recordings):
        raise ConfigError(f"{config.task} was recorded without labels: move its recordings away and collect them anew")
    env = make_environment(config)
    try:
        learner, replay = make_learner(config, env, _CPU), make_replay(config, env, _CPU)
    finally:
        env.close()
    fill(replay, recordings, make_protocol(config).get("reward_clip", np.inf))
    return learner, replay


def run(jobs: Sequence[Job], out: Path, made_by: dict[str, str], *, workers: int) -> int:
    """Do what is not in the CSV file yet, each row with what it was made by; return how many jobs failed."""
    done = {tuple(row[column] for column in KEY) for row in read_rows(out)}
    todo, failed = [job for job in jobs if job.key not in done], 0
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        running = {pool.submit(run_job, job): job for job in todo}
        for count, future in enumerate(as_completed(running), 1):
            title = f"[{count}/{len(todo)}] {' '.join(running[future].key[:3])}"
            try:
                rows = future.result()
            except Exception:
                failed += 1
                print(f"{title} failed\n{traceback.format_exc()}", file=sys.stderr, flush=True)
                continue
            merge_rows(out, [row | made_by for row in rows], KEY)
            mean = finite_mean(row["r2"] for row in rows)
            print(f"{title}: R2 {mean:.3f}, {rows[0]['train_seconds']:.0f} s of training", flush=True)
    return failed


def chosen(rows: Sequence[dict[str, str]], frames: int, updates: int) -> list[dict[str, str]]:
    """Return the rows of one number of frames and updates."""
    return [row for row in rows if row["frames"] == str(frames) and row["updates"] == str(updates)]


def tables(rows: Sequence[dict[str, str]], frames: int, updates: int) -> str:
    """Return Markdown for one number of frames and updates: means over quantities, then the quantities of each task.

    Numbers after "±" are standard deviations over seeds.
    """
    kept = chosen(rows, frames, updates)
    means = [(row["objective"], f"{row['task']} {row['layer']}", row["seed"], float(row["r2"])) for row in kept]
    parts = [_ranking(means, sorted({mean[1] for mean in means}), 3)]
    for title in dict.fromkeys((row["task"], row["layer"]) for row in kept):
        of_layer = [row for row in kept if (row["task"], row["layer"]) == title]
        columns = list(dict.fromkeys(row["quantity"] for row in of_layer))
        scores = [(row["objective"], row["quantity"], row["seed"], float(row["r2"])) for row in of_layer]
        parts.append(f"{' '.join(title)}:\n\n{_ranking(scores, columns, 2)}")
    return "\n".join(parts)


def _ranking(entries: list[tuple[str, str, str, float]], columns: Sequence[str], digits: int) -> str:
    return ranking(gather(entries), columns, first=(PIXELS, "none"), digits=digits)
