"""Jobs wait, run, are tried again and end as they should, on an engine that only pretends."""

import csv
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path

import pytest

from curl_rl.benchmark import schedule
from curl_rl.benchmark.board import Board, Standing
from curl_rl.benchmark.engines.base import LOST, Handle, Job
from curl_rl.benchmark.jobs import JOB_COLUMNS
from curl_rl.benchmark.schedule import Schedule
from curl_rl.config.overrides import compose
from curl_rl.config.schema import Config
from curl_rl.run.files import WriteError
from curl_rl.run.logger import RunLogger
from curl_rl.run.stored import save_config
from curl_rl.types import Clock, ConfigError, Episode, Origin

SETTINGS = ("task=toy/reach", "budget_frames=60", "random_steps=40", "evaluation.episodes=2")


def finish(job: Job, config: Config, frame: int = 60) -> None:
    """Leave in a run directory what a run leaves that came to a frame."""
    run_dir = Path(job.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    save_config(config, run_dir)
    (run_dir / "eval.csv").unlink(missing_ok=True)  # an engine asks more than once
    log = RunLogger(run_dir, Origin("p", "60 frames", "c", "v", "h"))
    log.evaluation(Clock(frame, frame, frame), [Episode(i, 10.0 * job.seed, 20) for i in range(2)], 1.0)
    log.close()


class FakeHandle:
    def __init__(self, job: Job, status: int | None, finish: Callable[[Job], None]):
        self.job, self.status, self.finish = job, status, finish
        self.stopped = self.killed = False

    def poll(self) -> int | None:
        if self.status == 0:
            self.finish(self.job)
        return 143 if self.stopped else self.status

    def paused(self) -> int | None:
        return None

    def stop(self) -> None:
        self.stopped = True

    def kill(self) -> None:
        self.killed = True

    def tail(self) -> str:
        return f"the end of {self.job.method}'s log, attempt"


class FakeEngine:
    """Gives each start of a method the next exit status of its list, 0 when it is used up; None runs for ever."""

    def __init__(
        self,
        statuses: Mapping[str, Sequence[int | None]],
        *,
        workers: int = 1,
        finish: Callable[[Job], None] = lambda job: finish(job, config_of(job)),
    ):
        self.statuses = {method: iter(each) for method, each in statuses.items()}
        self.workers, self.finish = workers, finish
        self.started: list[Job] = []
        self.handles: list[FakeHandle] = []
        self.most = 0

    def free(self) -> bool:
        running = sum(handle.poll() is None for handle in self.handles)
        self.most = max(self.most, running)
        return running < self.workers

    def start(self, job: Job) -> Handle:
        self.started.append(job)
        statuses: Iterator[int | None] = self.statuses.get(job.method, iter(()))
        self.handles.append(FakeHandle(job, next(statuses, 0), self.finish))
        return self.handles[-1]

    def view(self, job: Job) -> Path:
        return Path(job.run_dir)

    def describe(self) -> str:
        return "on a fake"

    def close(self) -> None: ...


def config_of(job: Job) -> Config:
    return compose([*SETTINGS, f"seed={job.seed}", f"run_dir={job.run_dir}"])


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(schedule, "_POLL_SECONDS", 0.001)


def run(folder: Path, engine: FakeEngine, methods: Sequence[str], stream: StringIO | None = None) -> int:
    jobs = [Job("toy/reach", method, 1, SETTINGS, f"{folder}/{method}-seed1") for method in methods]
    standings = [Standing(job, 60) for job in jobs]
    return Schedule(standings, engine, str(folder), stream or StringIO()).run()


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "jobs.csv").open() as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == JOB_COLUMNS
        return list(reader)


def test_all_run_no_more_at_once_than_there_are_workers(tmp_path):
    engine = FakeEngine({}, workers=2)
    assert run(tmp_path, engine, "abcde") == 0
    assert [job.method for job in engine.started] == list("abcde")
    assert engine.most <= 2
    assert [(row["status"], row["attempts"], row["exit_code"]) for row in table(tmp_path)] == [("done", "1", "0")] * 5
    assert table(tmp_path)[1]["run_dir"] == "b-seed1"
    assert table(tmp_path)[1]["command"] == f"curl-rl train {' '.join(SETTINGS)} run_dir={tmp_path}/b-seed1"


def test_jobs_of_an_earlier_benchmark_in_the_same_place_stay_listed(tmp_path):
    assert run(tmp_path, FakeEngine({"a": [1, 1, 1]}), "ab") == 1
    assert run(tmp_path, FakeEngine({}), "bc") == 0
    assert [(row["method"], row["status"]) for row in table(tmp_path)] == [
        ("a", "failed"),
        ("b", "done"),
        ("c", "done"),
    ]
    (tmp_path / "jobs.csv").write_text("")  # a full disk left it so
    assert run(tmp_path, FakeEngine({}), "c") == 0
    (tmp_path / "jobs.csv").write_text("task,status\n")
    with pytest.raises(ConfigError, match=r"jobs.csv has other columns"):
        run(tmp_path, FakeEngine({}), "c")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"\xff\xfe\0"), "is no table of jobs"),
        (lambda path: path.write_text("name,score\na,1\n"), "has other columns"),
        (lambda path: path.mkdir(), "is no file"),
        (os.mkfifo, "is no file"),
        (lambda path: path.symlink_to(path.parent / "absent"), "a link is in the way"),
    ],
)
def test_another_thing_of_its_tables_name_stops_a_benchmark_before_anything_runs(tmp_path, make, message):
    make(tmp_path / "jobs.csv")
    engine = FakeEngine({})
    with pytest.raises((ConfigError, WriteError), match=rf"^[^\n]*jobs.csv:? {message}[^\n]*$"):
        run(tmp_path, engine, "a")
    assert engine.started == []
    assert len(list(tmp_path.iterdir())) == 1


def test_what_fails_is_tried_twice_more(tmp_path):
    engine = FakeEngine({"a": [1, 2], "b": [1]})
    assert run(tmp_path, engine, "ab") == 0
    assert sorted(job.method for job in engine.started) == ["a", "a", "a", "b", "b"]
    assert [row["attempts"] for row in table(tmp_path)] == ["3", "2"]


def test_what_fails_thrice_is_listed_while_the_others_go_on(tmp_path):
    engine, stream = FakeEngine({"a": [1, 1, 3, 0]}), StringIO()
    assert run(tmp_path, engine, "abc", stream) == 1
    assert sorted(job.method for job in engine.started) == ["a", "a", "a", "b", "c"]
    failed, *others = table(tmp_path)
    assert (failed["status"], failed["attempts"], failed["exit_code"]) == ("failed", "3", "3")
    assert failed["tail"] == "the end of a's log, attempt"
    assert {row["status"] for row in others} == {"done"}
    said = stream.getvalue()
    assert "toy/reach a seed 1 failed with exit status 3, attempt 3 of 3" in said
    assert f"failed: curl-rl train {' '.join(SETTINGS)} run_dir={tmp_path}/a-seed1\nthe end of a's log" in said


def test_a_job_whose_place_cannot_be_written_fails_alone(tmp_path):
    class Full(FakeEngine):
        def start(self, job: Job) -> Handle:
            if job.method == "a":
                raise NotADirectoryError(f"{job.run_dir} is a file")
            return super().start(job)

    stream = StringIO()
    assert run(tmp_path, Full({}), "ab", stream) == 1
    assert [(row["status"], row["exit_code"]) for row in table(tmp_path)] == [("failed", ""), ("done", "0")]
    assert f"toy/reach a seed 1 could not start ({tmp_path}/a-seed1 is a file), attempt 3 of 3" in stream.getvalue()


def test_jobs_go_on_where_their_table_cannot_be_written_any_more(tmp_path):
    class Spoiler(FakeEngine):
        def start(self, job: Job) -> Handle:
            (tmp_path / "jobs.csv").unlink(missing_ok=True)
            (tmp_path / "jobs.csv").mkdir()
            (tmp_path / "jobs.csv" / "inside").touch()
            return super().start(job)

    stream = StringIO()
    assert run(tmp_path, Spoiler({}), "a", stream) == 0
    assert f"jobs.csv is not written now: cannot write {tmp_path}/jobs.csv: a folder is in the way" in stream.getvalue()
    assert "toy/reach a seed 1 is done" in stream.getvalue()


def test_success_without_a_last_evaluation_is_a_failure(tmp_path):
    engine = FakeEngine({}, finish=lambda job: finish(job, config_of(job), frame=30))
    assert run(tmp_path, engine, "a") == 1
    assert len(engine.started) == 3
    assert table(tmp_path)[0]["exit_code"] == "0"


def test_a_lost_worker_is_no_failure(tmp_path):
    engine, stream = FakeEngine({"a": [LOST] * 5 + [1, 0]}), StringIO()
    assert run(tmp_path, engine, "a", stream) == 0
    assert len(engine.started) == 7
    assert table(tmp_path)[0]["attempts"] == "2"
    assert "toy/reach a seed 1 lost its worker" in stream.getvalue()


def test_workers_that_are_lost_for_ever_end_a_job(tmp_path):
    engine = FakeEngine({"a": [LOST] * 1000})
    assert run(tmp_path, engine, "a") == 1
    assert len(engine.started) == 20


def test_a_paused_job_is_told_once_and_when_it_goes_on(tmp_path):
    class Paused(FakeHandle):
        looks = iter([None, 77, 77, 77, None])

        def paused(self) -> int | None:
            return next(self.looks, None)

        def poll(self) -> int | None:
            self.polls = getattr(self, "polls", 0) + 1
            self.status = 0 if self.polls > 30 else None
            return super().poll()

    class Pausing(FakeEngine):
        def start(self, job: Job) -> Handle:
            self.handles.append(Paused(job, None, self.finish))
            return self.handles[-1]

    stream = StringIO()
    assert run(tmp_path, Pausing({}), "a", stream) == 0
    said = [
        line.partition(" (")[0] for line in stream.getvalue().splitlines() if line.startswith("toy/reach a seed 1 ")
    ]
    paused = "is paused: kill -CONT -77 lets it go on"
    assert said == [f"toy/reach a seed 1 {event}" for event in ("starts", paused, "goes on", "is done: return 10.0")]


@pytest.mark.parametrize("anew", [False, True])
def test_a_deleted_folder_ends_the_benchmark_at_once(tmp_path, anew):
    """It may be there again by then, made by what a job still wrote."""

    class Vandal(FakeEngine):
        def start(self, job: Job) -> Handle:
            shutil.rmtree(out, ignore_errors=True)
            if anew:
                out.mkdir()
            return super().start(job)

    out, stream = tmp_path / "out", StringIO()
    out.mkdir()
    engine = Vandal({"a": [1, 1, 1], "b": [1, 1, 1]})
    with pytest.raises(
        FileNotFoundError, match=r"out was deleted or moved away while the benchmark ran: .* by the same"
    ):
        run(out, engine, "ab", stream)
    assert [job.method for job in engine.started] == ["a", "b"]
    assert "attempt" not in stream.getvalue()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_jobs_and_the_same_command_goes_on(tmp_path, number):
    class Signalled(FakeEngine):
        def start(self, job: Job) -> Handle:
            handle = super().start(job)
            if len(self.started) == 2:
                os.kill(os.getpid(), number)
            return handle

    engine, stream = Signalled({"a": [None], "b": [None]}, workers=2), StringIO()
    assert run(tmp_path, engine, "abc", stream) == 128 + number
    assert all(handle.stopped and not handle.killed for handle in engine.handles)
    assert [row["status"] for row in table(tmp_path)] == ["stopped", "stopped", "waiting"]
    assert stream.getvalue().endswith("stopped; the same command goes on\n")
    assert run(tmp_path, FakeEngine({}), "abc") == 0
    assert [row["status"] for row in table(tmp_path)] == ["done"] * 3


def test_a_job_that_will_not_stop_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "_STOP_SECONDS", 0.01)

    class Deaf(FakeEngine):
        def start(self, job: Job) -> Handle:
            handle = super().start(job)
            self.handles[-1].stop = lambda: None  # type: ignore[method-assign]
            os.kill(os.getpid(), signal.SIGTERM)
            return handle

    engine = Deaf({"a": [None]})
    assert run(tmp_path, engine, "a") == 143
    assert engine.handles[0].killed
    assert table(tmp_path)[0]["status"] == "stopped"


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def standings_of(folder: Path, methods: Sequence[str], seeds: Sequence[int]) -> list[Standing]:
    cases = [(method, seed) for method in methods for seed in seeds]
    return [
        Standing(Job("toy/reach", method, seed, SETTINGS, f"{folder}/{method}-seed{seed}"), 60)
        for method, seed in cases
    ]


def test_the_table_on_a_terminal_counts_seeds_and_averages_returns(tmp_path):
    standings = standings_of(tmp_path, "ab", (1, 2))
    for standing in standings[:3]:
        finish(standing.job, config_of(standing.job))
        standing.status = "done"
    standings[3].status = "failed"
    stream = Terminal()
    assert Schedule(standings, FakeEngine({}), str(tmp_path), stream).run() == 1
    lines = stream.getvalue().splitlines()
    assert lines[0] == "4 jobs, 3 of them done before, on a fake"
    assert lines[2].split() == ["toy/reach", "a", "2/2", "15.0"]
    assert lines[3].split() == ["toy/reach", "b", "1/2", "1", "10.0"]
    assert lines[4] == "0 running, 0 waiting, 3 done, 1 failed; 0:00:00 left"


def test_the_table_fits_the_terminal_and_shows_what_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "8")
    standings = standings_of(tmp_path, "abcdefghij", (1,))
    for standing in standings:
        standing.status = "running" if standing.job.method in "ij" else "done"
    stream = Terminal()
    board = Board(standings, str(tmp_path), stream)
    board.show()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 7  # and the line of the cursor
    assert max(map(len, lines)) < 40
    assert [line.split()[1] for line in lines[1:5]] == ["a", "b", "i", "j"]
    assert lines[5] == "... and 6 more"
    board.show()
    assert stream.getvalue().split("\x1b[7A\x1b[J")[1].splitlines() == lines
