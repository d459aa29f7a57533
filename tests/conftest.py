"""One thread a test process, nothing that a run sets in it left to the next test, and a word on what was not tested."""

import importlib.util
import os
from collections.abc import Iterator

import pytest

# Before torch is imported, here and in the processes that tests start: many small networks on many threads spend their
# time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if importlib.util.find_spec("triton"):  # of torch's CUDA build: its LLVM crashes where Mesa's was loaded before it
    importlib.import_module("torch._dynamo")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """As many as the machine can keep busy: xdist itself sees no quota of a container."""
    from curl_rl.run.machine import usable_cores

    return usable_cores()


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Take back what a run in this process sets: threads, and a processor's mode in which hypothesis does not draw."""
    import torch

    from curl_rl.nn.beside import use_threads

    yield
    torch.set_flush_denormal(False)
    use_threads(1)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Say below everything else that a missing browser has left the report's page without its tests."""
    yield
    skipped = terminalreporter.stats.get("skipped", [])
    if count := sum("needs chromium" in str(report.longrepr) for report in skipped):
        command = "sudo apt-get update && sudo apt-get install -y chromium"
        terminalreporter.write_line(f"{count} tests of pages need a browser: {command}, then make test")
