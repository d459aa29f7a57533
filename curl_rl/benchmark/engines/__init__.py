"""Where a benchmark's jobs run: on this machine, or on a Ray cluster."""

from curl_rl.benchmark.engines.base import Engine
from curl_rl.types import ConfigError


def make_engine(
    name: str, *, workers: int | None = None, per_gpu: int | None = None, cpus: int | None = None, address: str = "auto"
) -> Engine:
    """Return the engine "local" (`workers` or jobs `per_gpu`) or "ray" (`cpus` of each job, jobs `per_gpu`, `address`).

    Raises ConfigError for what the engine cannot use, for lack of cores or GPUs, or an address that does not answer.
    """
    if name == "local":
        if cpus is not None or address != "auto":
            raise ConfigError("--cpus and --address are of --engine ray; here --workers divides the cores")
        from curl_rl.benchmark.engines.local import LocalEngine

        return LocalEngine(workers=workers, per_gpu=per_gpu)
    if workers is not None:
        raise ConfigError("--workers is of --engine local; a Ray cluster runs as many jobs as its CPUs and GPUs hold")
    from curl_rl.benchmark.engines.ray import RayEngine

    return RayEngine(address, cpus=cpus or 1, gpus=1 / per_gpu if per_gpu else 0.0)
