"""The table of a benchmark's jobs is read back as it was written, and nothing else is taken for it."""

import csv
import io

import pytest

from curl_rl.benchmark.jobs import JOB_COLUMNS, jobs_text, read_jobs
from curl_rl.types import ConfigError

CELLS = ("toy/reach", "curl", 3, "failed", 3, "", "toy_reach/curl-seed3", "curl-rl train seed=3", 'a "b",\nc; Größe')
ROW = dict(zip(JOB_COLUMNS, CELLS, strict=True))
HEAD = ",".join(JOB_COLUMNS).encode() + b"\n"


def test_rows_come_back():
    text = jobs_text([ROW, ROW | {"seed": 4, "tail": ""}])
    back = read_jobs(text.encode(), "jobs.csv")
    assert back == [{name: str(cell) for name, cell in row.items()} for row in (ROW, ROW | {"seed": 4, "tail": ""})]
    assert jobs_text(back) == text
    assert read_jobs(b"", "jobs.csv") == []  # a full disk left it so
    assert read_jobs(HEAD, "jobs.csv") == []


def test_a_log_runs_nothing_in_a_spreadsheet_and_hides_nothing():
    text = jobs_text([ROW | {"tail": "=== it failed\x1b[0m\0", "exit_code": -9, "run_dir": "x\udcff"}])
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["tail"], row["exit_code"], row["run_dir"]) == (r"'=== it failed\x1b[0m\x00", "-9", r"x\udcff")
    assert jobs_text(read_jobs(text.encode(), "jobs.csv")) == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\0a", r"x/jobs.csv is no table of jobs \(.*decode"),
        (b"\0" * 50, "other columns than task, method, seed"),
        (b"task,status\n", "other columns than task, method, seed"),
        (HEAD.replace(b"tail", b"tail,more"), "other columns"),
        (b"name,score\na,1\n", "other columns"),
        (b"[1, 2]", "other columns"),
        (HEAD + b"a" * 200_000, "no table of jobs .*field larger"),
        (HEAD + b"toy/reach,curl\n", "line 2, is broken: run its benchmark again, or move it away"),
        (HEAD + b",".join([b"1"] * 10), "line 2, is broken"),
        (HEAD + b"a,b,one,d,e,f,g,h,i\n", "line 2, is broken"),
        (HEAD + b"a,b," + b"9" * 5_000 + b",d,e,f,g,h,i\n", "line 2, is broken"),
        (HEAD + "a,b,\u0663,d,e,f,g,h,i\n".encode(), "line 2, is broken"),
        (HEAD + b"a,b,1,d,e,f,g,h,i\na,b,,d,e,f,g,h,i\n", "line 3, is broken"),
    ],
)
def test_what_is_no_table_of_jobs_is_one_line(content, message):
    with pytest.raises(ConfigError, match=message) as error:
        read_jobs(content, "x/jobs.csv")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("x/jobs.csv")
