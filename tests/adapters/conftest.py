"""What the tests of adapters start from."""

from pathlib import Path

import pytest
from encoders import save_small


@pytest.fixture
def folder(tmp_path) -> Path:
    """Give the folder of a small encoder."""
    return save_small(tmp_path / "enc")
