"""Choice and test of the OpenGL backend that renders MuJoCo's images."""

import ctypes
import json
import os
import sys
import time
from typing import Any

BACKENDS = ("egl", "osmesa", "glfw")
MEND = (
    "install a software renderer with `apt-get install libegl1 libgl1-mesa-dri libopengl0` (or `libosmesa6`), name "
    "another backend with MUJOCO_GL=egl, osmesa or glfw, or train with preset=state, which renders nothing"
)
_SOFTWARE = ("llvmpipe", "softpipe", "swrast", "swr", "software")
_EGL_PLATFORM_DEVICE = 0x313F


def choose(*, required: bool = True) -> str:
    """Set MUJOCO_GL, unless it is set, to the first backend that can start here, and return it.

    Must run before dm_control or mujoco is imported: both read the variable once, at import. Without a backend raises
    RuntimeError, or turns rendering off (`MUJOCO_GL=off`) where it is not `required`.
    """
    backend = os.environ.get("MUJOCO_GL", "")
    if not backend:
        backend = "egl" if _egl_starts() else "osmesa" if _loads("libOSMesa.so.8", "libOSMesa.so.6") else "off"
    if required and backend == "off":
        raise RuntimeError(f"no OpenGL library can render here: {MEND}")
    # Without a display GLFW fails late, under a heap of messages from what it leaves half made.
    headless = sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if required and backend.lower() == "glfw" and headless:
        raise RuntimeError(f"MUJOCO_GL=glfw needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set: {MEND}")
    os.environ["MUJOCO_GL"] = backend
    return backend


def renderer_name() -> str:
    """Return GL_RENDERER of the current context."""
    from OpenGL import platform

    # Asked of the loader and not of PyOpenGL's own binding, which needs a libGL that EGL itself does not.
    loader: Any = platform.PLATFORM
    address = loader.getExtensionProcedure(b"glGetString")
    get_string = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_uint)(address)
    name = get_string(0x1F01)  # GL_RENDERER
    return name.decode() if name else "unknown"


def is_software(renderer: str) -> bool:
    """Tell whether a GL_RENDERER draws on the CPU."""
    return any(word in renderer.lower() for word in _SOFTWARE)


def _loads(*names: str) -> bool:
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def _egl_starts() -> bool:
    """Tell whether some EGL device initialises; libEGL also loads where no driver stands behind it."""
    if not _loads("libOpenGL.so.0", "libGLESv2.so.2"):  # PyOpenGL 3.1.10 cannot be imported for EGL without either
        return False
    try:
        egl = ctypes.CDLL("libEGL.so.1")
        egl.eglGetProcAddress.restype = ctypes.c_void_p
        egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
        query = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
        get_display = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    except (OSError, AttributeError):
        return False
    if not query or not get_display:
        return False
    pointer = ctypes.c_void_p
    devices, count = (pointer * 32)(), ctypes.c_int(0)
    ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, pointer, pointer)(query)(32, devices, ctypes.addressof(count))
    display_of = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)(get_display)
    egl.eglInitialize.argtypes = [pointer, pointer, pointer]
    displays = (display_of(_EGL_PLATFORM_DEVICE, devices[i], None) for i in range(count.value))
    return any(display and egl.eglInitialize(display, None, None) for display in displays)


def probe(backend: str, *, image_size: int = 84, seconds: float = 1.0) -> dict[str, Any]:
    """Render cartpole for about `seconds` with `backend` and report its name, renderer and speed.

    Run it in a process of its own (`python -m envs.gl egl`): a broken driver can hang or crash, and the backend of a
    process cannot change.
    """
    os.environ["MUJOCO_GL"] = backend
    from envs.dmc import DmcEnv

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
        "software": is_software(renderer),
    }


def main() -> int:
    """Print the probe of the backend named on the command line as one line of JSON."""
    if len(sys.argv) != 2 or sys.argv[1] not in BACKENDS:
        print(f"usage: python -m envs.gl {'|'.join(BACKENDS)}", file=sys.stderr)
        return 2
    try:
        report = probe(sys.argv[1])
    except Exception as error:  # whatever a driver does wrong is the answer here
        report = {"backend": sys.argv[1], "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(report))
    return 1 if "error" in report else 0


if __name__ == "__main__":
    sys.exit(main())
