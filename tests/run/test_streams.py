"""Whatever becomes of standard error, training goes on, its tables are complete and its exit status is right."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
import runs
from runs import metrics, rows

from curl_rl.run.streams import unfailing_stderr

SMALL = (*runs.SMALL, "device=cpu", "threads=1", "budget_frames=60", "evaluation.every_frames=30", "env.overlap=false")


class Broken(io.StringIO):
    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def write(self, _: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "full"), BrokenPipeError(), ValueError("I/O operation on closed file")])
def test_a_stream_that_raises_falls_silent(monkeypatch, error):
    monkeypatch.setattr(sys, "stderr", broken := Broken(error))
    with unfailing_stderr(), unfailing_stderr():
        print("lost", file=sys.stderr, flush=True)
    assert sys.stderr is broken


def test_a_stream_that_works_is_written_to(capsys):
    with unfailing_stderr():
        print("kept", file=sys.stderr)
        assert not sys.stderr.isatty()
    assert capsys.readouterr().err == "kept\n"


def run(script: str) -> bytes:
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("fate", ["2>&-; }", "2>/dev/full; }", "2>&1; } | head -1"])
def test_a_run_outlives_its_output(tmp_path: Path, fate: str):
    redirection, _, rest = fate.partition(";")
    command = f"'{sys.executable}' -m curl_rl train {' '.join(SMALL)} run_dir={tmp_path}/run"
    run(f"{{ {command} {redirection}; echo $? >{tmp_path}/status; {rest}")
    assert (tmp_path / "status").read_text() == "0\n"
    assert [row[0] for row in rows(tmp_path / "run")] == ["30", "30", "60", "60"]
    assert metrics(tmp_path / "run")[-1][0] == "60"


@pytest.mark.parametrize("fate", ["2>&-", "2>/dev/full"])
def test_a_refusal_that_nobody_hears_keeps_its_status(fate: str):
    told = run(f"'{sys.executable}' -m curl_rl train batch_size=0 {fate}; echo status $?")
    assert told == b"status 2\n"


@pytest.mark.parametrize("command", ["train --help", "benchmark dmc100k --dry-run"])
def test_an_output_that_is_full_is_named(command: str):
    told = run(f"'{sys.executable}' -m curl_rl {command} >/dev/full; echo status $?").decode()
    assert told == "status 1\ncurl-rl: cannot write to standard output: No space left on device; send it elsewhere\n"
