"""Keeps two processes from writing into one place."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curl_rl.types import ConfigError


@contextmanager
def alone(lock: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file, which its folder has, while this process lives. Raises ConfigError where another holds it."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(refusal) from None
        yield
