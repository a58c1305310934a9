"""No memory of a process that holds keys is written to a disk when it crashes.

Promise: the kernel writes no core file of this process or of what it starts. A system that takes cores over a pipe
decides for itself (systemd-coredump goes by the limit); swap is the machine's. Source: core(5),
setrlimit(2).
"""

import resource


def refuse() -> None:
    """From now on."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
