"""Renders with one OpenGL backend and tells how fast: `python -m curl_rl.envs.probe egl`."""

import json
import os
import sys
import time
from typing import Any

from curl_rl.envs import gl
from curl_rl.envs.dmc import DmcEnv


def probe(backend: str, *, image_size: int = 84, seconds: float = 1.0) -> dict[str, Any]:
    """Render cartpole for about `seconds` with `backend` and report its name, renderer and speed.

    Run it in a process of its own (`python -m curl_rl.envs.probe egl`): a broken driver can hang or crash, and the
    backend of a process cannot change.
    """
    os.environ["MUJOCO_GL"] = backend
    env = DmcEnv("cartpole_swingup", image_size=image_size)
    env.reset(seed=0)
    env.render()  # the first image compiles shaders
    frames, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        env.render()
        frames += 1
    renderer = env.render_info["gl_renderer"]
    return {
        "backend": backend,
        "gl_renderer": renderer,
        "frames_per_second": round(frames / elapsed, 1),
        "software": gl.is_software(renderer),
    }


def main() -> int:
    """Print the probe of the backend named on the command line as one line of JSON."""
    if len(sys.argv) != 2 or sys.argv[1] not in gl.BACKENDS:
        print(f"usage: python -m curl_rl.envs.probe {'|'.join(gl.BACKENDS)}", file=sys.stderr)
        return 2
    try:
        report = probe(sys.argv[1])
    except Exception as error:  # whatever a driver does wrong is the answer here
        report = {"backend": sys.argv[1], "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(report))
    return 1 if "error" in report else 0


if __name__ == "__main__":
    sys.exit(main())
