"""Who runs a run: the words of its start, what its rows are told to, and whether its progress is shown."""

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curl_rl.config.schema import Config
from curl_rl.run.interrupts import StopRequest
from curl_rl.run.logger import RunLogger
from curl_rl.run.progress import Progress
from curl_rl.run.trackers import Callback, open_audience
from curl_rl.types import Origin


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The command line, or a program that gives its own words."""

    command: str = ""  # that does this again; empty: the command line of this process
    callback: Callback | None = None
    progress: bool = True

    def open_logger(
        self, config: Config, origin: Origin, resume: Mapping[str, Any] | None, stop: StopRequest
    ) -> RunLogger:
        """Return what a run logs to. Raises ConfigError, with nothing changed, where that cannot be."""
        with ExitStack() as opened:
            known = (resume or {}).get("trackers", {})
            audience = opened.enter_context(closing(open_audience(config, known, self.callback, stop)))
            logger = RunLogger(Path(config.run_dir), origin, resume=resume, audience=audience)
            opened.pop_all()  # it is the logger's to close
            return logger

    def show(self, total: int, done: int) -> Progress:
        """Return what shows how many of a run's frames are done."""
        return Progress(total, initial=done, quiet=not self.progress)


COMMAND_LINE = Caller()
