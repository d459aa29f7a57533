"""Choice and test of the OpenGL backend that renders MuJoCo's images."""

import ctypes
import os
import sys
from typing import Any

from curl_rl.envs.errors import EnvError

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
    EnvError, or turns rendering off (`MUJOCO_GL=off`) where it is not `required`.
    """
    backend = os.environ.get("MUJOCO_GL", "")
    if not backend:
        backend = "egl" if _egl_starts() else "osmesa" if _loads("libOSMesa.so.8", "libOSMesa.so.6") else "off"
    if required and backend == "off":
        raise EnvError(f"no OpenGL library can render here: {MEND}")
    # Without a display GLFW fails late, under a heap of messages from what it leaves half made.
    headless = sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if required and backend.lower() == "glfw" and headless:
        raise EnvError(f"MUJOCO_GL=glfw needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set: {MEND}")
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
