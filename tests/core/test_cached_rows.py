"""Rows computed once: the same content is never computed again, other content always is, and nothing is left half."""

import numpy as np
import pytest
import torch

from lavis_mafa.common.cached_rows import cached_rows

ROWS = torch.arange(14, dtype=torch.float32).reshape(7, 2)


def cached(folder, content, parts, n=7):
    return cached_rows(folder / "new", "rows", content, n, lambda: iter(parts), "say less")


def test_rows_come_part_by_part_and_are_mapped(tmp_path):
    found = cached(tmp_path, ["tower"], ROWS.split([3, 3, 1]))
    assert isinstance(found, np.memmap) and found.dtype == np.float16 and (found == ROWS.numpy()).all()
    assert len(list((tmp_path / "new").glob("[!.]*"))) == 1


def test_the_same_content_is_not_computed_again(tmp_path):
    cached(tmp_path, ["tower"], [ROWS])
    assert (cached(tmp_path, ["tower"], []) == ROWS.numpy()).all()
    assert (cached(tmp_path, ["another"], [ROWS + 1]) == ROWS.numpy() + 1).all()


def test_half_precision_of_either_kind_is_kept(tmp_path):
    assert (cached(tmp_path, [16], [ROWS.bfloat16()]) == ROWS.numpy()).all()


@pytest.mark.parametrize("last", [1e6, float("nan")])
def test_what_float16_cannot_hold_is_told_and_leaves_nothing(tmp_path, last):
    parts = [torch.zeros(2, 1), torch.full((1, 1), last)]
    with pytest.raises(ValueError, match=r"rows 2 to 3 of rows_\w+\.npy leave float16's range; say less"):
        cached(tmp_path, [], parts, n=3)
    assert not list((tmp_path / "new").glob("[!.]*"))


def test_too_few_rows_are_no_file(tmp_path):
    with pytest.raises(AssertionError, match="2 rows came for 3"):
        cached(tmp_path, [], [torch.zeros(2, 1)], n=3)
    assert not list((tmp_path / "new").glob("[!.]*"))


def test_a_torn_file_is_named(tmp_path):
    cached(tmp_path, [], [ROWS])
    path = next((tmp_path / "new").glob("[!.]*"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"\.npy is damaged .* Delete it"):
        cached(tmp_path, [], [ROWS])
