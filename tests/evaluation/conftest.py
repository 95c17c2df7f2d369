"""A data folder of their own for the tests of measuring, so that they neither find nor leave anything.

The classifier of the digits is trained briefly: tests compile quickly, which makes slow programs.
"""

import pytest

from diffusion.evaluation.features import classifier


@pytest.fixture(scope="session", autouse=True)
def data_folder(tmp_path_factory):
    """Point the data root to a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("data")
        patch.setenv("DEMOLISH_DATA", str(folder))
        patch.setattr(classifier, "LEAST", 60)  # enough for nine digits of ten
        patch.setattr(classifier, "MOST", 60)
        yield folder
