"""How much memory and disk a tree of processes holds, for limits that the kernel has for single processes only.

Promise: memory is what the processes hold together, what they share counted once; disk is what lies below the scratch
folder, and files that were removed and are still open or mapped. What is looked at may change meanwhile, so a figure is
as good as the moment. It needs no library.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
ENTRIES = 100_000
"""Files and folders in a scratch folder, at most."""


def descendants(pid: int) -> list[int]:
    """Processes below `pid`, its children first."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = sorted(set(_children(waiting.pop())) - set(found))
        found += children
        waiting += children
    return found


def memory_held(pids: Sequence[int], most: int) -> int:
    """Bytes held by these processes. Up to `most` an estimate from above, which is cheap; beyond it exact."""
    estimate = sum(_resident(pid) for pid in pids)
    return estimate if estimate <= most else sum(_proportional(pid) for pid in pids)


def disk_held(pids: Sequence[int], scratch: Path) -> tuple[int, int]:
    """(bytes, entries) of the folder `scratch`, with what these processes still hold of it."""
    sizes: dict[tuple[int, int], int] = {}
    entries = 0
    for entry in _below(scratch):
        entries += 1
        if entries > ENTRIES:
            break
        sizes[entry.st_dev, entry.st_ino] = entry.st_blocks * 512
    device = scratch.stat().st_dev
    for pid in pids:
        for found in _open(pid):
            if found.st_dev == device and not found.st_nlink and stat.S_ISREG(found.st_mode):
                sizes[found.st_dev, found.st_ino] = found.st_blocks * 512
        for inode, size in _mapped(pid, scratch):
            sizes.setdefault((device, inode), size)
    return sum(sizes.values()), entries


def _children(pid: int) -> Iterator[int]:
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for task in tasks:
        yield from (int(word) for word in _read(f"/proc/{pid}/task/{task}/children").split())


def _resident(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * PAGE if fields else 0


def _proportional(pid: int) -> int:
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return _resident(pid)  # it may not be looked into: what it holds alone at most


def _below(folder: Path) -> Iterator[os.stat_result]:
    waiting = [os.fspath(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    yield entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:
            continue  # it went meanwhile


def _open(pid: int) -> Iterator[os.stat_result]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for name in names:
        try:
            yield os.stat(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue


def _mapped(pid: int, scratch: Path) -> Iterator[tuple[int, int]]:
    """(inode, bytes) of mappings of files of `scratch` that were removed."""
    for line in _read(f"/proc/{pid}/maps").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith(f"{scratch}/") and fields[5].endswith(" (deleted)"):
            first, last = (int(text, 16) for text in fields[0].split("-"))
            yield int(fields[4]), last - first


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
