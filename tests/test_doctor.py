"""The doctor's table tells the truth about a sound machine and names the mend for a broken one."""

import os
import subprocess
import sys
from importlib import metadata
from math import inf
from types import SimpleNamespace

import pytest

from curl_rl import doctor
from curl_rl.run import machine

LLVMPIPE = {"gl_renderer": "llvmpipe (LLVM 15)", "frames_per_second": 50.4, "software": True}
NVIDIA = {"gl_renderer": "NVIDIA H100", "frames_per_second": 900.0, "software": False}
ABSENT = {"error": "ImportError: no libEGL"}


@pytest.fixture
def installed(monkeypatch):
    """Return the installed versions that the doctor sees, to be changed; everything is as pinned at first."""
    versions = {"curl-rl": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.4.6", "mujoco": "3.17.0"}
    requires = [
        "torch==2.13.0",
        "numpy<3,>=2",
        "mujoco==3.17.0",
        'stable-baselines3==2.9.2; extra == "sb3"',
        'pytest>=8; extra == "dev"',
    ]

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: requires)
    monkeypatch.setattr(metadata, "metadata", lambda name: {"Requires-Python": ">=3.11,<3.13"})
    return versions


@pytest.fixture
def gl(monkeypatch):
    """Return what each backend's probe reports, to be changed."""
    reports = {"egl": LLVMPIPE, "osmesa": LLVMPIPE, "glfw": ABSENT}
    monkeypatch.setattr(doctor, "probe_gl", lambda backend: reports[backend])
    return reports


def rows(checks) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


def test_a_sound_machine_can_train(installed, gl, capsys):
    assert doctor.main() == 0
    out = capsys.readouterr().out
    assert "ok    torch" in out
    assert "2.13.0+cpu" in out
    assert "llvmpipe (LLVM 15), 50 frames/s" in out
    assert "warn: gl egl: egl renders on the CPU" in out
    assert out.endswith("ready to train\n")


def test_a_wrong_pin_fails_with_the_mend(installed, gl, capsys):
    installed["mujoco"] = "4.0.0"
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "4.0.0, wanted ==3.17.0" in out
    assert "fail: mujoco: pip install 'mujoco==3.17.0'" in out
    assert out.endswith("training cannot run here\n")


def test_a_missing_package_fails_and_a_missing_extra_does_not(installed):
    del installed["numpy"]
    found = rows(doctor.check_packages())
    assert found["numpy"].mark == "fail"
    assert found["stable-baselines3"].mark == "-"
    assert "pytest" not in found


def test_a_wrong_extra_warns(installed):
    installed["stable-baselines3"] = "2.0.0"
    assert rows(doctor.check_packages())["stable-baselines3"][:3:2] == ("warn", "2.0.0, wanted ==2.9.2")


def test_without_the_project_itself_the_doctor_says_how_to_install_it(installed):
    del installed["curl-rl"]
    (check,) = doctor.check_packages()
    assert (check.mark, check.name) == ("fail", "curl-rl")
    assert "pip install -e ." in check.mend


@pytest.mark.parametrize(
    ("version", "mark"), [("3.10.9", "fail"), ("3.11.0", "ok"), ("3.12.4", "ok"), ("3.13.0", "fail")]
)
def test_the_python_version(installed, monkeypatch, version, mark):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: version)
    assert [check.mark for check in doctor.check_python()] == [mark]


def test_without_any_backend_the_mend_is_apts_and_what_needs_no_gl(gl, installed, capsys):
    gl.update(egl=ABSENT, osmesa=ABSENT)
    assert doctor.main() == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fail:")]
    assert "apt-get install -y --no-install-recommends libegl1 libgl1-mesa-dri libopengl0" in line
    assert "preset=state" in line


def test_one_backend_is_enough_and_a_gpu_needs_no_warning(gl):
    gl.update(egl=ABSENT, osmesa=LLVMPIPE)
    assert [check.mark for check in doctor.check_gl()] == ["-", "ok", "-"]
    gl.update(egl=NVIDIA, osmesa=ABSENT)
    assert [(check.mark, check.mend) for check in doctor.check_gl()] == [("ok", ""), ("-", ""), ("-", "")]


def test_software_egl_beside_a_gpu_names_its_driver(gl, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name)
    assert "libnvidia-gl" in rows(doctor.check_gl())["gl egl"].mend


def fake_probe(monkeypatch, code: str) -> None:
    real = subprocess.run
    monkeypatch.setattr(doctor.subprocess, "run", lambda _, **kwargs: real([sys.executable, "-c", code], **kwargs))


def test_a_backend_that_hangs_is_given_up(monkeypatch):
    fake_probe(monkeypatch, "import time; time.sleep(60)")
    assert doctor.probe_gl("egl", timeout=0.2) == {"error": "hangs: no image within 0.2 s"}


def test_a_backend_that_crashes_is_reported(monkeypatch):
    fake_probe(monkeypatch, "import os, sys; print('no driver', file=sys.stderr, flush=True); os.abort()")
    assert doctor.probe_gl("egl") == {"error": "exit status -6 no driver"}


def test_a_chatty_driver_does_not_hide_the_report(monkeypatch):
    fake_probe(monkeypatch, "print('libEGL warning'); print('{\"software\": true}')")
    assert doctor.probe_gl("egl") == {"software": True}


@pytest.mark.gl
def test_a_real_backend_renders():
    reports = [doctor.probe_gl(backend) for backend in ("egl", "osmesa")]
    working = [report for report in reports if "error" not in report]
    assert working, reports
    assert all(report["frames_per_second"] > 1 and report["gl_renderer"] for report in working)


def test_little_room_warns(monkeypatch):
    monkeypatch.setattr(doctor, "free_main_memory", lambda: 2_000_000_000)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=90_000_000_000))
    memory, (disk,) = rows(doctor.check_devices())["memory free"], doctor.check_disk()
    assert disk == ("ok", "disk free here", "90.0 GB", "")
    assert memory[:3] == ("warn", "memory free", "2.0 GB")
    assert "replay.capacity" in memory.mend


def test_a_torch_that_does_not_import_is_a_failure_with_a_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    torch = rows(doctor.check_devices())["torch"]
    assert torch.mark == "fail"
    assert "--force-reinstall torch" in torch.mend


def test_a_cpu_quota_is_told_with_what_it_leaves(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for quota, mark, found in [
        (inf, "ok", "8 cores, "),
        (2.5, "ok", "2 of 8 cores, quota 2.5, "),
        (0.5, "warn", "1 of"),
    ]:
        monkeypatch.setattr(machine, "cpu_quota", lambda quota=quota: quota)
        monkeypatch.setattr(doctor, "cpu_quota", lambda quota=quota: quota)
        cpu = rows(doctor.check_devices())["cpu"]
        assert cpu.mark == mark
        assert cpu.found.startswith(found)
        assert bool(cpu.mend) == (quota < 8)


def test_another_package_of_our_name_in_the_current_folder_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "envs").mkdir()  # nobody else's business
    assert list(doctor.check_shadows()) == []
    (tmp_path / "curl_rl").mkdir()
    (check,) = doctor.check_shadows()
    assert check[:3] == ("warn", "module curl_rl", "the current folder has another")
    assert "start `curl-rl` itself" in check.mend


def test_another_package_of_our_name_that_python_finds_before_ours_is_a_failure(tmp_path, monkeypatch):
    other = SimpleNamespace(origin=str(tmp_path / "curl_rl" / "__init__.py"))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: other)
    (check,) = doctor.check_shadows()
    assert check[:3] == ("fail", "module curl_rl", f"is {tmp_path / 'curl_rl'}, not this project's")
    assert "PYTHONPATH" in check.mend


def test_a_folder_without_room_for_files_warns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert rows(doctor.check_disk()).keys() == {"disk free here"}
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=90_000_000_000))
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_files=10**6, f_favail=12))
    monkeypatch.setattr(doctor.tempfile, "gettempdir", lambda: (_ for _ in ()).throw(FileNotFoundError()))
    found = rows(doctor.check_disk())
    assert {name: check.mark for name, check in found.items() if name != "disk free here"} == {
        "folder": "warn",
        "files free here": "warn",
        "temporary files": "warn",
    }
    assert found["files free here"].found == "12"
    assert "TMPDIR" in found["temporary files"].mend
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_files=0, f_favail=0))  # as btrfs says
    assert "files free here" not in rows(doctor.check_disk())


def test_what_records_and_shows_a_run_is_looked_for(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name)
    monkeypatch.setattr(doctor.locale, "getpreferredencoding", lambda _: "UTF-8")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2, raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((80, 24)))
    assert list(doctor.check_tools()) == []
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor.locale, "getpreferredencoding", lambda _: "ISO-8859-1")
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((0, 0)))
    marks = {name: check.mark for name, check in rows(doctor.check_tools()).items()}
    assert marks == {"git": "warn", "encoding": "warn", "terminal": "warn", "chromium": "-"}


@pytest.mark.gl
def test_the_probe_finds_our_environments_beside_others(tmp_path, monkeypatch):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("raise RuntimeError('not ours')")
    monkeypatch.chdir(tmp_path)
    assert "not ours" not in str(doctor.probe_gl("egl"))
    assert "envs" not in doctor.probe_gl("glfw")["error"]
