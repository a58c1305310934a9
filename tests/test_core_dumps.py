"""What a process that holds keys had in memory is in no file when it crashes.

Where the limit of these tests themselves is 0 already, this sees nothing; by default Linux has none.
"""

from pathlib import Path

from tests.processes import NAMES, house
from tests.test_rival_consent import begin, enrolled


def core_limits(process: int | str) -> list[str]:
    """The soft and the hard limit of a process's core files, as the kernel has them."""
    lines = Path(f"/proc/{process}/limits").read_text().splitlines()
    return next(line.split()[4:6] for line in lines if line.startswith("Max core file size"))


def test_serve_and_participate_write_no_core_file(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        enrolled(home, NAMES[:1])
        begin(home, NAMES[0])
        home.until(lambda: home.connected() == [NAMES[0]], "its session")
        for name in ("coordinator", NAMES[0]):
            assert core_limits(home.running[name].pid) == ["0", "0"], name
