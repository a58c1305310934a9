"""Whether a long-running process keeps one heap for all threads (its memory would grow with the cohort otherwise)."""

import platform
import subprocess
import sys

import pytest
from patience import LIMIT_S

THREADS = 6
PROBE = f"""
import ctypes, sys, threading
from fedveil_cli import heap
if sys.argv[1] == "one":
    assert heap.share_one()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
together = threading.Barrier({THREADS})
def take():
    together.wait()
    libc.malloc(50_000)  # below the size that is mapped by itself
    together.wait()
threads = [threading.Thread(target=take) for _ in range({THREADS})]
for one in threads: one.start()
for one in threads: one.join()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


def heaps(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, how], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other heaps")
def test_threads_share_one_heap() -> None:
    assert heaps("one") == 1
    assert heaps("many") > 1  # or this test would show nothing
