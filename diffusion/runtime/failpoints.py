"""Failpoints: named points in the code at which a process can be made to kill itself, for tests of crash safety.

With DEMOLISH_KILL_AT=before_rename in the environment, the process kills itself (SIGKILL: nothing is
flushed, no handler runs) when it reaches the failpoint of that name; before_rename:3 means the third time.
Several names are separated by commas. Without the variable, a failpoint costs one dictionary lookup.
"""

import itertools
import os
import signal
from collections import defaultdict
from collections.abc import Iterator

VARIABLE = "DEMOLISH_KILL_AT"

_times: defaultdict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))


def armed(name: str) -> bool:
    """Return whether the environment variable names this failpoint, for code that prepares something for it."""
    return name in os.environ.get(VARIABLE, "")


def failpoint(name: str) -> None:
    """Kill this process here if the environment variable names this failpoint.

    Args:
        name: name of the failpoint, such as "before_rename".
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    time = next(_times[name])
    for place in wanted.split(","):
        where, _, number = place.strip().partition(":")
        if where == name and time == int(number or 1):
            os.kill(os.getpid(), signal.SIGKILL)
