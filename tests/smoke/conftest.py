"""What tests of the programs share."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items):
    """Mark all of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.programs)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data root that starts empty, one for each file."""
    return tmp_path_factory.mktemp("data")
