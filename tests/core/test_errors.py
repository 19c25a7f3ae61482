"""A command ends in one line for what a user can put right, and with its traceback for a fault of ours."""

from __future__ import annotations

import logging

import pytest
from torch.utils.data import DataLoader, Dataset

from lavis_mafa.common.errors import message, one_line_errors
from lavis_mafa.common.stdout import Printable, printable


class Named(ValueError):
    """An error of a module, whose name a traceback has in full."""


class Broken(Dataset[int]):
    def __init__(self, kind: type[ValueError]) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 2

    def __getitem__(self, row: int) -> int:
        try:
            raise OSError("half a file")
        except OSError as error:
            raise self.kind("a.jpg is truncated\nValue: none") from error


def ended(error: Exception) -> str:
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise error
    assert isinstance(stop.value.code, str)
    return stop.value.code


@pytest.mark.parametrize("kind", [ValueError, Named])
@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_raised_is_what_it_would_have_been_without(workers: int, kind: type[ValueError]) -> None:
    with pytest.raises(kind) as found:
        next(iter(DataLoader(Broken(kind), num_workers=workers)))
    assert message(found.value) == "a.jpg is truncated\nValue: none"


def test_one_line_names_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert ended(ValueError("run.seed is wrong")) == "error: run.seed is wrong"
    monkeypatch.setenv("RANK", "1")
    assert ended(ValueError("run.seed is wrong")) == "error: rank 1: run.seed is wrong"


def test_a_missing_package_is_named_with_who_knows_more() -> None:
    with pytest.raises(ModuleNotFoundError) as found:
        import no_such_package  # noqa: F401
    assert "No module named 'no_such_package'; `python -m lavis_mafa.doctor`" in ended(found.value)


@pytest.mark.parametrize("fault", [KeyError("x"), ModuleNotFoundError("No module", name="lavis_mafa.gone")])
def test_a_fault_of_ours_keeps_its_traceback(fault: Exception) -> None:
    with pytest.raises(type(fault)), one_line_errors():
        raise fault


def test_what_a_terminal_would_obey_is_shown_as_an_escape() -> None:
    assert ended(ValueError("a\x1b]0;owned\x07\u202eb\nc\td")) == r"error: a\x1b]0;owned\x07\u202eb" + "\nc\td"
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "image %s", ("\x1b[2J.jpg",), None)
    assert Printable("%(message)s").format(record) == r"image \x1b[2J.jpg"
    assert printable("ein Hund, 狗, \u00e9") == "ein Hund, 狗, \u00e9"
    assert printable("a\nb", kept="") == r"a\nb"
