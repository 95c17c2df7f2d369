"""What the tests of speed share: compilations as JAX reports them.

Nothing here looks at a clock. What is asserted is what makes programs fast on any machine: how often something is
compiled, how many programs are sent to the device, that none of them asks the host, what memory they use again.
"""

import jax
import pytest

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compilations():
    """The names of the programs that are compiled during a test, in order, such as "jit(step)"."""
    names = []

    def note(event, duration, **labels):
        if event == COMPILED:
            names.append(labels["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)
