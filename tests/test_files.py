"""Files keep their permissions when they are replaced, and a job sees its own limits."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from commands import forked

from imgbench.files import copy_atomically, core_quota, cores, memory_left, memory_limit, write_atomically

if sys.platform != "win32":
    import resource

GB = 10**9


def copy_where_files_stay_small(source: Path, place: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    copy_atomically(source, place)


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no such limit")
def test_a_copy_on_a_full_disk_leaves_the_file_of_before(tmp_path):
    (tmp_path / "a").write_bytes(bytes(5000))
    (tmp_path / "b").write_text("of before")
    done = forked(copy_where_files_stay_small, tmp_path / "a", tmp_path / "b")
    assert done.returncode == 1
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {"a": 5000, "b": 9}


@pytest.fixture(params=[1, 2], ids=["version 1", "version 2"])
def group(request, tmp_path):
    """The version of the control groups, their directory, and that of this process's own one, to be filled in."""
    lines = Path("/proc/self/cgroup").read_text().splitlines() if Path("/proc/self/cgroup").is_file() else []
    entries = [line.split(":", 2) for line in lines]
    wanted = {2: [""], 1: ["cpu", "memory"]}[request.param]
    places = {name: path for _, names, path in entries for name in names.split(",") if name in wanted}
    if set(places) != set(wanted):
        pytest.skip(f"there are no control groups of version {request.param} here")
    own = {name: tmp_path / name / path.lstrip("/") for name, path in places.items()}
    for folder in own.values():
        folder.mkdir(parents=True, exist_ok=True)
    return request.param, tmp_path, own


def limit_memory(group, most: int | None, used: int, cached: int) -> None:
    version, _, own = group
    folder = own["" if version == 2 else "memory"]
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    unlimited = "max" if version == 2 else str(2**63 - 4096)
    (folder / names[0]).write_text(f"{unlimited if most is None else most}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 0\ninactive_file {cached}\ntotal_inactive_file {cached}\n")


def limit_cores(group, quota: int | None) -> None:
    version, _, own = group
    folder = own["" if version == 2 else "cpu"]
    if version == 2:
        (folder / "cpu.max").write_text(f"{'max' if quota is None else quota} 100000\n")
    else:
        (folder / "cpu.cfs_quota_us").write_text(f"{-1 if quota is None else quota}\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_permissions_of_the_umask(tmp_path, umask, expected):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == expected


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(0o640)
    write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_cores_are_those_of_the_affinity():
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    script += "from imgbench.files import cores\nprint(cores())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert cores() >= 1


@pytest.mark.parametrize(("quota", "expected"), [(50_000, 1), (100_000, 1), (150_000, 2), (None, None)])
def test_a_control_group_limits_the_cores(group, quota, expected):
    limit_cores(group, quota)
    _, root, _ = group
    assert core_quota(root) == expected
    assert cores(root) == min(cores(), expected or cores())


def test_a_control_group_limits_the_memory_and_its_cached_files_count_as_free(group):
    limit_memory(group, 3 * GB, used=2 * GB, cached=GB)
    _, root, _ = group
    assert memory_limit(root) == min(3 * GB, psutil.virtual_memory().total)
    assert memory_left(root) <= 2 * GB


def test_a_group_without_a_limit_leaves_what_the_machine_has(group):
    limit_memory(group, None, used=2 * GB, cached=GB)
    assert memory_limit(group[1]) == psutil.virtual_memory().total


def test_a_group_that_is_full_leaves_nothing(group):
    limit_memory(group, 1000, used=2000, cached=0)
    assert memory_left(group[1]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no such limit")
def test_the_limit_of_the_process_counts_as_memory():
    script = "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))\n"
    script += "from imgbench.files import memory_left, memory_limit\nprint(memory_limit(), memory_left())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    limit, left = map(int, done.stdout.split())
    assert limit == 3 * 2**30
    assert 0 < left < limit
