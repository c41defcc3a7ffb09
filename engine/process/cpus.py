"""The CPUs that a container's quota and the process's affinity allow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def usable_cpus(root: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> int:
    """Return the number of CPUs that this process may keep busy, at least 1."""
    return default_threads(root, own) or affinity_cpus()


def default_threads(root: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> int:
    """Return the number of threads for `threads = 0`: the whole CPUs of the smallest quota, at least 1.

    0 if no quota is below the affinity, which libraries follow themselves.
    """
    quotas = [max(1, int(quota)) for quota in cpu_quotas(root, own)]
    fewest = min(quotas, default=0)
    return fewest if fewest < affinity_cpus() else 0


def affinity_cpus() -> int:
    """Return the number of CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quotas(root: Path, own: Path) -> Iterator[float]:
    """Yield the quotas, in CPUs, of this process's control group and of those around it, in versions 1 and 2."""
    for line in _text(own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            roots = [root, root / "unified"]
        elif "cpu" in controllers.split(","):
            roots = [root / controllers, root / "cpu"]
        else:
            continue
        for top in roots:
            group = top / path.lstrip("/")
            for folder in (group, *group.parents):
                if top not in (folder, *folder.parents):
                    break
                yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
    if not quota:
        quota, period = (_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:  # "max" and -1 are no limit
        yield int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
