"""Processors that may be used: by affinity and by the quota of each control group on the way up."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from installer_plugin.process import processors
from installer_plugin.process.processors import quotas, usable_processors


def machine(mounted: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        (mounted / name).parent.mkdir(parents=True, exist_ok=True)
        (mounted / name).write_text(content)
    return mounted


V1 = {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("membership", "files", "found"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, [1.5]),
        ("0::/a/b\n", {"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n"}, [1.0]),
        ("0::/a/b\n", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "300000 100000"}, [3.0, 1.0]),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, [2.0]),
        ("0::/system.slice/docker-1.scope\n", {"cpu.max": "200000 100000\n"}, [2.0]),
        ("0::/../x\n", {"x/cpu.max": "200000 100000\n"}, [2.0]),
        ("0::/a:b\n", {"a:b/cpu.max": "200000 100000\n"}, [2.0]),
        ("0::/a\n", {"unified/a/cpu.max": "200000 100000\n"}, [2.0]),
        ("3:cpu,cpuacct:/a\n0::/a\n", {f"cpu,cpuacct/a/{k}": v for k, v in V1.items()}, [0.5]),
        ("3:cpu,cpuacct:/a\n", {f"cpu/a/{k}": v for k, v in V1.items()}, [0.5]),
        ("3:cpu:/docker/1\n", {f"cpu/{k}": v for k, v in V1.items()}, [0.5]),
        ("3:cpu:/\n", {**{f"cpu/{k}": v for k, v in V1.items()}, "cpu/cpu.cfs_quota_us": "-1\n"}, []),
        ("3:cpuset:/a\n", {f"cpuset/a/{k}": v for k, v in V1.items()}, []),
        ("0::/a\n", {"a/cpu.max": "many 100000\n"}, []),
        ("0::/a\n", {"a/cpu.max": "100000 0\n"}, []),
        ("0::/a\n", {"a/cpu.max": "100000\n"}, []),
        ("0::/a\n", {"a/cpu.max": ""}, []),
        ("a word\n\n", {}, []),
        ("", {}, []),
    ],
)  # fmt: skip
def test_quotas_of_all_groups_count(
    tmp_path: Path, membership: str, files: Mapping[str, str], found: list[float]
) -> None:
    assert list(quotas(membership, machine(tmp_path, files))) == found


@pytest.mark.parametrize(
    ("affinity", "quota", "count"),
    [
        (8, None, 8),
        (1, None, 1),
        (8, "150000", 2),
        (8, "10000", 1),
        (2, "800000", 2),
        (8, "max", 8),
    ],
)
def test_less_of_affinity_and_quota_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    affinity: int,
    quota: str | None,
    count: int,
) -> None:
    files = {"cpu.max": f"{quota} 100000\n"} if quota else {}
    monkeypatch.setattr(processors, "MOUNTED", machine(tmp_path, files))
    monkeypatch.setattr(processors, "MEMBERSHIP", tmp_path / "cgroup")
    if quota:
        (tmp_path / "cgroup").write_text("0::/\n")
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(affinity)))
    assert usable_processors() == count


def test_affinity_of_this_process_counts() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_processors() == 1
    finally:
        os.sched_setaffinity(0, before)
