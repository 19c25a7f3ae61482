"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: $LAVIS_MAFA_DATA, else ../shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LAVIS_MAFA_DATA") or default)
    if (folder / "flickr8k").is_dir():
        return folder
    message = f"no real data in {folder}: set LAVIS_MAFA_DATA to the folder that holds flickr8k/"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def encoder_folder(tmp_path: Path) -> Path:
    """A tiny sentence encoder of random weights."""
    from tests.tiny_text import save_encoder

    save_encoder(tmp_path / "encoder")
    return tmp_path / "encoder"
