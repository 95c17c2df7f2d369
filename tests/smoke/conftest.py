"""What tests of the programs share."""

import pytest


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data root that starts empty, one for each file."""
    return tmp_path_factory.mktemp("data")
