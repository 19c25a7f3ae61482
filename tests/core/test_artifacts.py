"""Files that are whole or absent."""

import numpy as np
import pytest

from lavis_mafa.core.artifacts import save_rows


def test_rows_come_part_by_part(tmp_path):
    rows = np.arange(14, dtype=np.float32).reshape(7, 2)
    save_rows(tmp_path / "new" / "rows.npy", 7, iter(np.split(rows, [3, 6])), "")
    found = np.load(tmp_path / "new" / "rows.npy", mmap_mode="r")
    assert found.dtype == np.float16 and (found == rows).all()


@pytest.mark.parametrize("last", [1e6, np.nan])
def test_what_float16_cannot_hold_is_told_and_leaves_nothing(tmp_path, last):
    parts = iter([np.zeros((2, 1), np.float32), np.full((1, 1), last, np.float32)])
    with pytest.raises(ValueError, match=r"rows 2 to 3 of rows\.npy leave float16's range; say less"):
        save_rows(tmp_path / "rows.npy", 3, parts, "say less")
    assert not list(tmp_path.iterdir())


def test_too_few_rows_are_no_file(tmp_path):
    with pytest.raises(AssertionError, match="2 rows came for 3"):
        save_rows(tmp_path / "rows.npy", 3, iter([np.zeros((2, 1), np.float32)]), "")
    assert not list(tmp_path.iterdir())
