"""Captions of open_clip's CSV data are the texts that stand there, and an empty one is an error."""

import open_clip
import pytest

from lavis_mafa.openclip_train import launcher as train
from lavis_mafa.openclip_train.csv_feed import pair_ids
from lavis_mafa.openclip_train.csv_table import read_pairs, read_weights

from . import launch
from .tiny import register_tiny

WORDS = ["None", "NA", "null", "nan", "N/A", "1.50", "007", "True", "a dog"]


def write(path, captions, header="filepath\ttitle"):
    path.write_text(f"{header}\n" + "".join(f"0{n}\t{caption}\n" for n, caption in enumerate(captions)))
    return path


def test_words_that_pandas_takes_for_missing_are_text(tmp_path):
    images, captions = read_pairs(write(tmp_path / "a.csv", WORDS), "filepath", "title", "\t")
    assert images == [f"0{n}" for n in range(len(WORDS))]
    assert captions == WORDS


@pytest.mark.parametrize("empty", ["", "  ", '""'])
def test_an_empty_caption_is_named_by_its_row(tmp_path, empty):
    file = write(tmp_path / "a.csv", ["x", empty, "y", empty])
    with pytest.raises(ValueError, match=r"a\.csv: 'title' is empty in 2 rows \(row 2, 4\): fill it in"):
        read_pairs(file, "filepath", "title", "\t")


def test_what_is_no_table_of_pairs_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.csv cannot be read"):
        read_pairs(tmp_path / "gone.csv", "filepath", "title", "\t")
    with pytest.raises(ValueError, match=r"a\.csv has no column 'title', only 'filepath', 'caption'"):
        read_pairs(write(tmp_path / "a.csv", ["x"], "filepath\tcaption"), "filepath", "title", "\t")
    (tmp_path / "short.csv").write_text("filepath\ttitle\na.jpg\n")
    with pytest.raises(ValueError, match=r"'title' is empty in 1 rows \(row 1\)"):
        read_pairs(tmp_path / "short.csv", "filepath", "title", "\t")


def test_a_file_may_have_weights(tmp_path):
    assert read_weights(write(tmp_path / "a.csv", ["x"]), "\t") is None
    file = write(tmp_path / "a.csv", ["x\t0.5", "y\t1"], "filepath\ttitle\tweight")
    assert read_weights(file, "\t") == [0.5, 1.0]
    assert read_pairs(file, "filepath", "title", "\t") == (["00", "01"], ["x", "y"])


@pytest.mark.parametrize("wrong", ["", "1.01", "-0.1", "nan", "much"])
def test_a_wrong_weight_is_named_by_its_row(tmp_path, wrong):
    file = write(tmp_path / "a.csv", ["x\t0.5", f"y\t{wrong}"], "filepath\ttitle\tweight")
    with pytest.raises(ValueError, match=rf"a\.csv, row 2: weight is {wrong!r}; it must be a number"):
        read_weights(file, "\t")


@pytest.mark.parametrize("place", ["data", "connections"])
def test_training_refuses_an_empty_caption(tmp_path, place):
    register_tiny(tmp_path, "tiny-train")
    good, bad = write(tmp_path / "good.csv", ["x"] * 8), write(tmp_path / "bad.csv", ["x"] * 7 + [""])
    data, more = (bad, []) if place == "data" else (good, ["--mafa-connections", bad])
    with pytest.raises(ValueError, match=r"bad\.csv: 'title' is empty in 1 rows \(row 8\)"):
        train.main(launch.arguments(data, tmp_path, *more))


@pytest.mark.parametrize(("clean", "distinct"), [("lower", 3), ("canonicalize", 2)])
def test_captions_that_the_tokenizer_makes_equal_are_one_text(clean, distinct):
    """SigLIP's tokenizer reads no punctuation."""
    captions = ["A dog.", "a  dog", "a cat", "A DOG."]
    ids = pair_ids(["a", "b", "c", "d"], captions, open_clip.tokenizer.get_clean_fn(clean))
    assert len(set(ids[:, 1].tolist())) == distinct
    plain = pair_ids(["a", "b", "c", "d"], captions)
    assert (ids == plain).all() == (clean == "lower")  # CLIP's own makes no difference to the ids
