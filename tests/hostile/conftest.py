"""The library that records what processes do to files, and makes their calls fail."""

import pytest
from support.crash.shim import compiled_shim


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    return compiled_shim(tmp_path_factory.mktemp("shim"))
