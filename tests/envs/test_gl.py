"""Tests of the choice and the probe of an OpenGL backend."""

import json
import os
import subprocess
import sys

import pytest
from places import ROOT

from curl_rl.envs import EnvError, gl


def probe(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "curl_rl.envs.probe", *arguments]
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=variables)


@pytest.mark.parametrize(
    ("libraries", "egl", "chosen"), [((), True, "egl"), (("libOSMesa.so.8",), False, "osmesa"), ((), False, "off")]
)
def test_choice_of_a_backend(monkeypatch, libraries, egl, chosen):
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(gl, "_egl_starts", lambda: egl)
    monkeypatch.setattr(gl, "_loads", lambda *names: bool(set(names) & set(libraries)))
    if chosen == "off":
        with pytest.raises(EnvError, match=r"apt-get install libegl1 .*libosmesa6.*MUJOCO_GL.*preset=state"):
            gl.choose()
    assert gl.choose(required=False) == chosen
    assert os.environ["MUJOCO_GL"] == chosen


def test_choice_of_a_backend_is_the_users_first(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setenv("DISPLAY", ":0")
    assert gl.choose() == "glfw"


def test_glfw_needs_a_display(monkeypatch):
    monkeypatch.setattr(gl.sys, "platform", "linux")
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setenv("DISPLAY", "")
    monkeypatch.setenv("WAYLAND_DISPLAY", "")
    with pytest.raises(EnvError, match=r"MUJOCO_GL=glfw needs a display.*MUJOCO_GL=egl"):
        gl.choose()
    assert gl.choose(required=False) == "glfw"
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert gl.choose() == "glfw"


def test_egl_without_a_driver_is_no_backend(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(gl.ctypes, "CDLL", missing)
    assert not gl._egl_starts()
    assert not gl._loads("libOSMesa.so.8")


@pytest.mark.gl
def test_probe_reports_renderer_and_speed():
    backend = gl.choose()
    done = probe(backend)
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report["backend"] == backend
    assert report["frames_per_second"] > 0
    assert report["software"] == any(word in report["gl_renderer"] for word in ("llvmpipe", "softpipe"))


def test_probe_of_a_broken_backend_says_why():
    done = probe("egl", PYOPENGL_PLATFORM="osmesa")  # dm_control refuses the two together
    assert done.returncode == 1
    assert "PYOPENGL_PLATFORM" in json.loads(done.stdout)["error"]
    assert probe().returncode == 2
