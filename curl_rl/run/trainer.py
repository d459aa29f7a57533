"""The training loop: act, learn while the environment steps, evaluate, checkpoint, and resume."""

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from curl_rl.config.schema import Config
from curl_rl.nn.diagnostics import watch_features
from curl_rl.nn.state import Kept
from curl_rl.run.assembly import make_agent, make_environment, make_replay, make_rollout
from curl_rl.run.begin import begin, describe_run
from curl_rl.run.branch import read_branch
from curl_rl.run.caller import COMMAND_LINE, Caller
from curl_rl.run.device import choose_device, describe, prepare_torch
from curl_rl.run.documents import read_starts
from curl_rl.run.evaluate import Interrupted
from curl_rl.run.interrupts import StopRequest
from curl_rl.run.judging import Judging
from curl_rl.run.keeping import open_checkpoints, surpasses
from curl_rl.run.locks import training_alone
from curl_rl.run.logger import MetricMeans, raise_on_nonfinite
from curl_rl.run.novelty import Watched
from curl_rl.run.pretrained import check_frozen
from curl_rl.run.progress import Forecast, Stopwatch
from curl_rl.run.provenance import make_origin, surroundings, write_metadata
from curl_rl.run.rollout import random_action
from curl_rl.run.seeds import Purpose
from curl_rl.run.segments import go_on_from, is_finished
from curl_rl.run.stored import FILE, check_state, identify, save_config, take_up
from curl_rl.run.streams import unfailing_stderr
from curl_rl.run.threads import choose_threads
from curl_rl.types import Batch, Clock


class Trainer(Kept):
    """One run: its agent, environment, replay and clock, all of which a checkpoint keeps."""

    kept = ("agent", "replay", "means", "evaluated")

    def __init__(self, config: Config, cleanup: ExitStack, caller: Caller = COMMAND_LINE, *, anew: bool = False):
        self.run_dir, self.device = Path(config.run_dir), choose_device(config.device)
        prepare_torch(config.threads)  # before an environment that renders here
        self.env = make_environment(config)
        cleanup.callback(self.env.close)
        self.config, self.threads = choose_threads(config, self.env, self.device)
        self.judging = Judging(config, cleanup)
        self.branch = read_branch(config, anew=anew)
        self.agent = make_agent(config, self.env, self.device, self.branch and self.branch.source(self.env))
        self.replay = make_replay(config, self.env, self.device)
        self.rollout = make_rollout(config, self.env, self.replay)
        self.rng = np.random.default_rng([config.seed, Purpose.LOOP])
        self.identity = identify(self.config)  # once: the folder of what it starts from may go
        self.means, self.clock, self.watch = MetricMeans(), Clock(), Stopwatch()
        self.evaluated, self.saved = 0, (0, 0)  # frames at the last evaluation; at the last checkpoint, at its own
        self.checkpoints = open_checkpoints(config)
        self.surpassed = False  # whether the last evaluation is the best so far, and has no checkpoint yet
        self.forecast = Forecast(describe(self.device), config.budget_frames, config.env.action_repeat)
        self.caller, self.stop = caller, StopRequest("stopping after this step; once more stops at once")

    def run(self) -> int:
        """Train to the budget; return the exit status, 128 + the signal's number where one asked for a stop."""
        loaded = self.checkpoints.load(self.replay, check=lambda state: check_state(state, self.config))
        state, changed = go_on_from(loaded, self.identity, self.run_dir)
        if state is not None:
            self.load_state_dict(state)
        begun = begin(self.config, self.branch, self.env, self.agent, self.replay) if state is None else {}
        # Not before: what could not be built, or is not this run's, must leave the directory as it is.
        start, budget = surroundings(self.caller.command), self.config.budget_frames
        start |= self.threads | self.env.render_info
        start |= describe_run(self.config, self.identity) | {"frame": self.clock.frame, "changed": changed} | begun
        origin = make_origin(start, start["protocol"]["hash"], budget)
        with closing(self.caller.open_logger(self.config, origin, state and state["log"], self.stop)) as self.logger:
            save_config(self.config, self.run_dir)
            write_metadata(self.run_dir, start)
            with self.stop.listening(), closing(self.caller.show(budget, self.clock.frame)) as self.progress:
                self.rollout.start(state and state["episode"])
                if state is None or changed:
                    self._save()  # before any row: where there are rows, there is a checkpoint that they go on from
                self._loop()
        if self.stop() and not self.finished:
            print(f"stopped; `curl-rl train run_dir={self.run_dir}` goes on", file=sys.stderr)
            return 128 + self.stop.signal
        return 0

    @property
    def learning(self) -> bool:
        return self.clock.agent_step >= self.config.random_steps

    @property
    def _last(self) -> bool:
        return self.clock.frame >= self.config.budget_frames

    @property
    def finished(self) -> bool:
        return self._last and self.evaluated >= self.config.budget_frames

    def _loop(self) -> None:
        # What is due comes before the next step: a run stopped in an evaluation takes it up again where it was.
        while True:
            if not self._last and self._due(self.config.evaluation.every_frames, self.evaluated):
                self._evaluate()
            if self._due(self.config.checkpoint.every_frames, self.saved[0]) or self.surpassed:
                self._save()
            if self._last:
                self._evaluate()  # after its checkpoint: these rows say that the run is finished
                self.logger.flush()
                return
            if self.stop():
                break
            self._timed_step()
        if self.saved != (self.clock.frame, self.evaluated):
            self._save()

    def _due(self, every: int, last: int) -> bool:
        frame = self.clock.frame
        return frame // every > last // every or (self._last and last < frame)

    def _timed_step(self) -> None:
        learns, began = self.learning, time.monotonic()
        self._step()
        if told := self.forecast.add(time.monotonic() - began, self.clock.frame, learns=learns):
            self.progress.note(told)

    def _step(self) -> None:
        """Send an action, learn while the environment steps and renders, and store what it answers."""
        self.rollout.send(self._choose_action())
        if self.learning:
            for _ in range(self.config.updates_per_step):
                self._update()
        over, step = self.rollout.receive().over, self.clock.agent_step + 1
        self.clock = self.clock._replace(agent_step=step, frame=step * self.config.env.action_repeat)
        self.progress.update(self.clock.frame, self.rollout.score if over else None)
        if over:
            self.logger.scalars(self.clock, {"return": self.rollout.score, "length": len(self.rollout.actions)})
            self.rollout.begin(self.rollout.index + 1)

    def _choose_action(self) -> np.ndarray:
        if not self.learning:
            return random_action(self.env.action_space, self.rng)
        action = self.agent.act(self.rollout.stack.observation()[None], explore=True)[0]
        if not np.isfinite(action).all():
            raise_on_nonfinite({**self.means.peek(), "action": float(action.sum())}, self.clock)
        return action

    def _sample(self, size: int, rng: np.random.Generator) -> Batch:
        return self.replay.sample(size, rng, self.agent.n_step, self.agent.discount)

    def _update(self) -> None:
        batch = self._sample(self.config.batch_size, self.rng)
        result = self.agent.update(batch)
        if result.priorities is not None:
            self.replay.update_priorities(batch.index, result.priorities)
        self.means.add(result.metrics)
        self.clock = self.clock._replace(update=self.clock.update + 1)
        if self.clock.update % self.config.log.every_updates == 0:
            self.means.add(watch_features(self.agent.learner, batch))
            means = self.means.take()
            raise_on_nonfinite(means, self.clock)
            self.logger.scalars(self.clock, {**means, "frames_per_second": self.watch.speed(self.clock.frame)})

    def _evaluate(self) -> None:
        """Play an evaluation, and tell and show what came of it."""
        frame = self.clock.frame
        player = Watched(self.agent, self.device) if self.config.novelty else self.agent
        try:
            episodes, film = self.judging.play(player, frame, last=self._last, interrupted=self.stop)
        except Interrupted:
            return
        self.evaluated = frame
        self.logger.evaluation(self.clock, episodes, self.watch.seconds())
        self.surpassed = surpasses(self.config, self.clock)
        mean = np.mean([episode.score for episode in episodes])
        self.progress.note(f"frame {frame:,}: mean return {mean:.1f} over {len(episodes)} episodes")
        if film is not None and film.frames:
            self.logger.video(self.clock, "evaluation", np.stack(film.frames), fps=15 / film.stride)
        if len(self.replay):
            batch = self._sample(8, np.random.default_rng(self.clock.frame))
            self.logger.views(self.clock, self.agent.learner.snapshot(batch), self.config.env.frame_stack)
            if isinstance(player, Watched):
                self.logger.scalars(self.clock, player.novelty(self._sample, len(self.replay), frame))

    def _save(self) -> None:
        raise_on_nonfinite(self.means.peek(), self.clock)  # no broken weights replace good ones
        check_frozen(self.config, self.agent.learner.encoder, self.identity.get("pretrained", ""))
        self.logger.flush()
        if not (self.run_dir / FILE).exists():
            save_config(self.config, self.run_dir)
        self.saved, self.surpassed = (self.clock.frame, self.evaluated), False
        self.checkpoints.save(self.clock.agent_step, self.state_dict(), self.replay)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resume needs but the replay's frames, which the journal keeps."""
        return {
            "config": self.identity,
            "log": self.logger.state_dict(),
            **super().state_dict(),
            "rng": self.rng.bit_generator.state,
            "clock": list(self.clock),
            "seconds": self.watch.seconds(),
            "episode": self.rollout.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a checkpoint's state; the running episode is played again by `run`."""
        super().load_state_dict(state)
        self.rng.bit_generator.state = state["rng"]
        self.clock = Clock(*state["clock"])
        self.watch = Stopwatch(state["seconds"], self.clock.frame)
        self.saved = self.clock.frame, self.evaluated


def train(config: Config, caller: Caller = COMMAND_LINE) -> int:
    """Train, or go on with, the run in `config.run_dir`; return the exit status.

    A finished run is left as it is, unless its budget has grown. Raises ConfigError where the run there cannot go on as
    configured, or its files do not allow it; OSError where it cannot be written.
    """
    with unfailing_stderr(), ExitStack() as cleanup:
        run_dir, config = Path(config.run_dir), take_up(config)
        if is_finished(config):
            return 0
        read_starts(run_dir)  # what could not be added to is refused before anything is built
        cleanup.enter_context(training_alone(run_dir))
        return Trainer(config, cleanup, caller).run()
