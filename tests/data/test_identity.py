import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavis_mafa.data.identity import check_collisions, clean_path, image_id, normalised, text_id


def test_ids_never_change():
    # Stores on disk are keyed by these: a change here makes every old store foreign.
    assert text_id("A dog runs.") == 509917318923372852
    assert image_id("coco", 139) == 8180664587934706188


def test_ids_do_not_depend_on_the_process():
    code = "from lavis_mafa.data.identity import *; print(text_id('Ein Hund'), image_id('a', 7))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(text_id("Ein Hund")), str(image_id("a", 7))]


def test_the_same_text_in_other_clothes():
    assert text_id("Ein  CAFÉ\n") == text_id("ein cafe\N{COMBINING ACUTE ACCENT}")
    assert text_id("a dog") != text_id("a dog .")


def test_image_id_is_of_data_set_and_id():
    assert image_id("coco", 7) == image_id("coco", "7") == image_id("coco", 7.0)
    assert len({image_id("coco", 7), image_id("vg", 7), image_id("coco", "07"), text_id("7")}) == 4
    assert image_id("coco", clean_path("./a//b.jpg")) == image_id("coco", "a/b.jpg")
    for key in (True, 7.5, None, ["7"]):
        with pytest.raises(ValueError, match="whole number or a string"):
            image_id("coco", key)


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_ids_fit_int64_and_normalising_twice_changes_nothing(caption):
    assert 0 <= text_id(caption) < 2**63
    assert normalised(normalised(caption)) == normalised(caption)


def test_collisions_are_found_and_repeats_are_not():
    strings = ["a", "b", "a", "c"]
    check_collisions(np.array([5, 2, 5, 9]), strings.__getitem__)
    with pytest.raises(ValueError, match="'a' and 'c' share the id 5"):
        check_collisions(np.array([5, 2, 5, 5]), strings.__getitem__)
