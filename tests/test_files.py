"""Files keep their permissions when they are replaced, and a job sees its own limits."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from imgbench.files import cores, memory_left, memory_limit, write_atomically

GB = 10**9


@pytest.fixture
def group(tmp_path):
    """A directory of control groups, in which this process's own one is to be filled in."""
    lines = Path("/proc/self/cgroup").read_text().splitlines() if Path("/proc/self/cgroup").is_file() else []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if own is None:
        pytest.skip("there are no control groups of version 2 here")
    (tmp_path / own).mkdir(parents=True, exist_ok=True)
    return tmp_path, tmp_path / own


def limit(folder: Path, most: str, used: int, cached: int) -> None:
    (folder / "memory.max").write_text(most + "\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - cached}\ninactive_file {cached}\n")


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


def test_a_control_group_limits_the_memory_and_its_cached_files_count_as_free(group):
    root, own = group
    limit(own, str(3 * GB), used=2 * GB, cached=GB)
    most = psutil.virtual_memory()
    assert memory_limit(root) == min(3 * GB, most.total)
    assert memory_left(root) <= 2 * GB


def test_a_group_without_a_limit_leaves_what_the_machine_has(group):
    root, own = group
    limit(own, "max", used=2 * GB, cached=GB)
    assert memory_limit(root) == psutil.virtual_memory().total


def test_a_group_that_is_full_leaves_nothing(group):
    root, own = group
    limit(own, "1000", used=2000, cached=0)
    assert memory_left(root) == 0
