import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavis_mafa.common.hashing import digest, digest_of

DIFFERENT = [
    (("ab", "c"), ("a", "bc")),
    (("a", ""), ("", "a")),
    (("a",), (b"a",)),
    ((1,), ("1",)),
    ((1,), (True,)),
    ((("a", "b"),), ("a", "b")),
    (("a", "b"), ("b", "a")),
    ((np.zeros(2, np.int32),), (np.zeros(1, np.int64),)),
    ((np.zeros((2, 3)),), (np.zeros((3, 2)),)),
    ((np.array([1.0, 2.0]),), (np.array([1.0, 3.0]),)),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_content_has_another_hash(one, other):
    assert digest(*one) == digest(*one) != digest(*other)


def test_a_view_has_the_hash_of_its_copy():
    rows = np.arange(12).reshape(3, 4)
    assert digest(rows[:, ::2]) == digest(rows[:, ::2].copy()) != digest(rows[:, 1::2])


def test_an_array_of_objects_is_refused():
    with pytest.raises(AssertionError, match="addresses"):
        digest(np.array(["a", None], dtype=object))


@given(st.lists(st.one_of(st.text(), st.binary(), st.integers(), st.none())))
def test_parts_may_come_one_at_a_time(parts):
    assert digest_of(iter(parts)) == digest(*parts)


def test_another_process_finds_the_same():
    code = "from lavis_mafa.common.hashing import digest; print(digest('caption é', {'b': (1, 2.5)}, None))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == digest("caption é", {"b": (1, 2.5)}, None)
