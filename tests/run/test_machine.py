"""What a process may use is the tightest of what system, affinity and control groups leave it."""

import math
import mmap
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from curl_rl.config.overrides import compose
from curl_rl.nn.beside import threads
from curl_rl.run import device, judging, machine
from curl_rl.run.machine import affinity, cpu_quota, free_main_memory, usable_cores


@pytest.fixture
def put(tmp_path):
    """Write a file of a machine whose root is `tmp_path`."""

    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    return write


def test_free_main_memory_is_the_tightest_bound(tmp_path, put):
    assert free_main_memory(root=tmp_path) == math.inf
    put("proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:  8000 kB\nHugePages_Total:  0\n")
    assert free_main_memory(root=tmp_path) == 8000 * 1024
    put("proc/self/cgroup", "0::/job/step\n")
    put("sys/fs/cgroup/job/step/memory.max", "max\n")
    put("sys/fs/cgroup/job/step/memory.current", "1000\n")
    assert free_main_memory(root=tmp_path) == 8000 * 1024
    put("sys/fs/cgroup/job/memory.max", "7000000\n")
    put("sys/fs/cgroup/job/memory.current", "3000000\n")
    put("sys/fs/cgroup/job/memory.stat", "anon 5\ninactive_file 500000\n")
    assert free_main_memory(root=tmp_path) == 4_500_000
    put("proc/self/cgroup", "4:cpu,memory:/box\n2:cpu:/\n0::/job/step\n")
    put("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "2000000\n")
    put("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "1500000\n")
    assert free_main_memory(root=tmp_path) == 500_000
    assert 0 < free_main_memory() < 2**50


def test_the_cpu_quota_is_the_tightest_of_all_groups_above(tmp_path, put):
    assert cpu_quota(root=tmp_path) == math.inf
    put("proc/self/cgroup", "0::/job/step\n")
    put("sys/fs/cgroup/job/step/cpu.max", "max 100000\n")
    assert cpu_quota(root=tmp_path) == math.inf
    put("sys/fs/cgroup/job/cpu.max", "250000 100000\n")
    put("sys/fs/cgroup/cpu.max", "800000 100000\n")
    assert cpu_quota(root=tmp_path) == 2.5


def test_a_container_sees_its_own_group_as_the_root(tmp_path, put):
    put("proc/self/cgroup", "0::/docker/abc\n")  # a path of the host
    put("sys/fs/cgroup/cpu.max", "150000 100000\n")
    assert cpu_quota(root=tmp_path) == 1.5


def test_the_cpu_quota_of_version_1(tmp_path, put):
    put("proc/self/cgroup", "5:memory:/\n3:cpuset:/\n2:cpuacct,cpu:/box\n0::/\n")
    put("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "-1\n")
    put("sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n")
    assert cpu_quota(root=tmp_path) == math.inf
    put("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "50000\n")
    assert cpu_quota(root=tmp_path) == 0.5
    put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "20000\n")
    put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "50000\n")
    assert cpu_quota(root=tmp_path) == 0.4


@pytest.mark.parametrize(("quota", "cores"), [(math.inf, 4), (9.0, 4), (4.0, 4), (2.9, 2), (1.0, 1), (0.5, 1)])
def test_the_cores_that_can_be_kept_busy(monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7})
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert usable_cores() == cores
    assert affinity() == [2, 3, 5, 7]


def test_a_system_without_affinity_has_all_its_cores(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert affinity() == [0, 1, 2]


def test_updates_and_evaluations_follow_what_is_usable(monkeypatch):
    monkeypatch.setattr(judging, "usable_cores", lambda: 3)
    monkeypatch.setattr(judging, "make_environment", lambda config, extra: extra)
    monkeypatch.setattr(device, "usable_cores", lambda: 3)
    assert len(judging.make_judges(compose(["task=toy/reach"]), episodes=10)) == 3
    device.prepare_torch(0)
    assert threads() == 2  # one in each crew


def test_asking_the_machine_loads_no_torch():
    code = "import sys, curl_rl.run.machine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_more_threads_than_cores_are_told_and_not_taken(monkeypatch, capsys):
    for cores, asked, used in ((4, 1000, 4), (3, 1000, 2), (4, 3, 2), (1, 2, 1), (4, 2, 2), (4, 1, 1)):
        monkeypatch.setattr(device, "usable_cores", lambda cores=cores: cores)
        device.prepare_torch(asked)
        assert threads() == used
        told = f"threads={asked}, and {cores} usable core{'s' * (cores > 1)} here: {used} {'are' if used > 1 else 'is'}"
        assert capsys.readouterr().err == (f"{told} used, one or an even number\n" if asked != used else "")


def test_what_an_update_allocates_lies_where_huge_pages_are_asked_for():
    code = (
        "import torch; from pathlib import Path; from curl_rl.run.device import prepare_torch; prepare_torch(1);"
        "x = torch.ones(64 << 20, dtype=torch.uint8); place = x.data_ptr() + x.nbytes // 2; inside = False\n"
        "for line in Path('/proc/self/smaps').read_text().splitlines():\n"
        "    first = line.split()[0]\n"
        "    if not first.endswith(':'):\n"
        "        start, _, end = first.partition('-'); inside = int(start, 16) <= place < int(end, 16)\n"
        "    elif inside and first == 'VmFlags:':\n"
        "        print('hg' in line.split())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(Path("/sys/kernel/mm/transparent_hugepage").is_dir())


@pytest.mark.parametrize("start", [0, 3 << 20])
def test_huge_pages_are_asked_for_inside_what_was_reserved(start):
    asked = []

    class Call:
        def __init__(self, name, answer=0):
            self.name, self.answer = name, answer

        def __call__(self, *arguments):
            asked.append((self.name, *arguments))
            return self.answer

    names = ("mallopt", "free", "madvise")
    device._keep_memory(SimpleNamespace(malloc=Call("malloc", start), **{name: Call(name) for name in names}))
    assert [call[0] for call in asked[:5]] == ["mallopt"] * 4 + ["malloc"]
    if not start:
        assert len(asked) == 5  # nothing was given
        return
    (_, place, length, advice), freed = asked[5:]
    assert place % (2 << 20) == 0
    assert start <= place < place + length <= start + asked[4][1]
    assert (advice, freed) == (mmap.MADV_HUGEPAGE, ("free", start))
    asked.clear()
    device._keep_memory(SimpleNamespace())  # a C library that has no such options
    assert asked == []
