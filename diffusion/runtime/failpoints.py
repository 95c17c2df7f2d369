"""Named places at which a process can be made to die, for tests of what a kill leaves behind.

With DEMOLISH_KILL_AT=before_rename in the environment, the process kills itself (SIGKILL: nothing is
flushed, no handler runs) when it comes to the place of that name; before_rename:3 means the third time.
Several are separated by commas. Unset, a place costs one dictionary lookup.
"""

import itertools
import os
import signal
from collections import defaultdict
from collections.abc import Iterator

VARIABLE = "DEMOLISH_KILL_AT"

_times: defaultdict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))


def armed(name: str) -> bool:
    """Say whether the process may die at this place, where it takes something to make that worth while."""
    return name in os.environ.get(VARIABLE, "")


def failpoint(name: str) -> None:
    """Die here if the environment says so.

    Args:
        name: of the place, such as "before_rename".
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    time = next(_times[name])
    for place in wanted.split(","):
        where, _, number = place.strip().partition(":")
        if where == name and time == int(number or 1):
            os.kill(os.getpid(), signal.SIGKILL)
