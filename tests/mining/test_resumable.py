import numpy as np
import pytest

from lavis_mafa.mining.resumable import filled


def squares(start, stop):
    return np.stack([np.arange(start, stop), np.arange(start, stop) ** 2], 1).astype(np.float16)


def each(compute):
    return lambda parts: (compute(part.start, part.stop) for part in parts)


@pytest.mark.parametrize("killed_at", [0, 4, 8])
def test_what_was_written_is_not_computed_again(tmp_path, killed_at):
    def dies(start, stop):
        if start == killed_at:
            raise KeyboardInterrupt
        return squares(start, stop)

    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path / "a.npy", 10, 4, each(dies), "rows")
    assert not (tmp_path / "a.npy").exists()
    starts = []
    whole = filled(tmp_path / "a.npy", 10, 4, each(lambda a, b: starts.append(a) or squares(a, b)), "rows")
    assert starts == [start for start in (0, 4, 8) if start >= killed_at]
    np.testing.assert_array_equal(whole, squares(0, 10))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
    assert filled(tmp_path / "a.npy", 10, 4, each(dies), "rows")[3].tolist() == [3, 9]


def test_a_part_whose_mark_was_not_written_is_computed_again(tmp_path):
    (tmp_path / "a.partial").write_bytes(b"torn")
    np.testing.assert_array_equal(filled(tmp_path / "a.npy", 10, 4, each(squares), "rows"), squares(0, 10))


def test_rows_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(ValueError, match="images 4 to 8 are not finite"):
        filled(tmp_path / "a.npy", 10, 4, each(lambda a, b: squares(a, b) / (a < 4)), "images")


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(ValueError, match="a.npy is damaged"):
        filled(tmp_path / "a.npy", 10, 4, each(squares), "rows")
