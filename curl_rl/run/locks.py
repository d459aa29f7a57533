"""Keeps two processes from writing into one place."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from curl_rl.run.files import WriteError, check_folder, writing
from curl_rl.types import ConfigError


@contextmanager
def alone(lock: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file, in a folder that is made where it is absent, while this process lives.

    Raises ConfigError where another holds it, WriteError where it cannot be made.
    """
    check_folder(lock.parent)
    with writing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    with file:
        try:
            with writing(lock):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except WriteError as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise ConfigError(refusal) from None
            raise
        yield


@contextmanager
def training_alone(run_dir: Path) -> Iterator[None]:
    """Hold a run's lock: two that train in one directory would prune each other's checkpoints.

    A folder that was made for a run which was then refused is taken away again.
    """
    lock, new = run_dir / ".lock", not run_dir.exists()
    with alone(lock, f"another process trains in {run_dir}: wait for it or give another run_dir"):
        try:
            yield
        except BaseException:
            with suppress(OSError):  # what is said is why it was refused
                if new and [*run_dir.iterdir()] == [lock]:
                    lock.unlink()
                    run_dir.rmdir()
            raise
