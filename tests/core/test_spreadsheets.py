import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavis_mafa.common.spreadsheets import as_text, from_text, write_csv

FORMULAS = ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "＝1", "'=1", "''+1"]


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_formula_becomes_text(cell):
    assert as_text(cell) == "'" + cell
    assert from_text(as_text(cell)) == cell


@pytest.mark.parametrize("cell", ["a dog", "'a dog'", " =1", "", 3, -1.5, None])
def test_other_cells_stay(cell):
    assert as_text(cell) is cell


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="'=+-@a \t\r\n"))
def test_every_text_comes_back(text):
    assert from_text(as_text(text)) == text


def test_numbers_stay_numbers(tmp_path):
    write_csv(tmp_path / "x.csv", pd.DataFrame({"caption": ["=1", "a"], "p": [-0.5, 0.25], "rank": [1, -2]}))
    assert (tmp_path / "x.csv").read_text() == "caption,p,rank\n'=1,-0.5,1\na,0.25,-2\n"
