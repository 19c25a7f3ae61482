from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from lavis_mafa.reports.curves import draw_curves

STEPS = pd.DataFrame(
    {
        "epoch": np.repeat([0, 1, 2], 24),
        "step": np.tile(np.arange(24), 3),
        "loss": np.linspace(9.0, 3.0, 72),
        "loss_itc": np.linspace(4.0, 1.0, 72),
        "connections": np.repeat([0, 10, 20], 24),
        "ambiguous": np.repeat([0, 2, 4], 24),
        "false_negative_rate": np.nan,
        "itm_false_negative_rate": np.nan,
        "s_it": 0.5,
        "data_share": 0.1,
    }
)
EPOCHS = pd.DataFrame({"epoch": [0, 1, 2], "sampling": ["random", "grit", "grit"], "val_image_r1": [5.0, 9.0, 12.0]})


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> dict[str, Axes]:
    """The panels of the figures that are saved, by title."""
    seen: dict[str, Axes] = {}
    save = Figure.savefig

    def spy(figure: Figure, *args: object, **kwargs: object) -> None:
        seen.update({axes.get_title("left"): axes for axes in figure.axes})
        save(figure, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", spy)
    return seen


def legend(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]  # type: ignore[union-attr]


def line(axes: Axes, label: str) -> NDArray[np.float64]:
    return np.asarray(next(line for line in axes.lines if line.get_label() == label).get_xydata())


def test_only_panels_and_lines_with_data_are_drawn(tmp_path: Path, panels: dict[str, Axes]) -> None:
    draw_curves(STEPS, EPOCHS, tmp_path / "run" / "curves.png")
    assert {title: legend(axes) for title, axes in panels.items()} == {
        "Losses": ["sum", "ITC"],
        "Connections per batch": ["connections", "ambiguous pairs"],
        "Validation recall by ITC, in %": ["image R@1"],
        "Seconds per step": ["in all", "waiting for data"],
    }
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["curves.png"]
    with Image.open(tmp_path / "run" / "curves.png") as picture:
        picture.load()
        assert picture.format == "PNG" and picture.width > 1000


def test_smoothing_keeps_the_jump_between_two_epochs(tmp_path: Path, panels: dict[str, Axes]) -> None:
    draw_curves(STEPS, EPOCHS, tmp_path / "curves.png")
    connections = line(panels["Connections per batch"], "connections")
    assert connections[:, 1].tolist() == STEPS["connections"].tolist()


def test_time_is_in_epochs_even_where_one_was_cut_short(tmp_path: Path, panels: dict[str, Axes]) -> None:
    draw_curves(STEPS.head(60), EPOCHS.head(2), tmp_path / "curves.png")
    times = line(panels["Losses"], "sum")[:, 0]
    assert times[[0, 23, 47, 59]] == pytest.approx([1 / 24, 1, 2, 2.5])
    assert line(panels["Validation recall by ITC, in %"], "image R@1").tolist() == [[1, 5], [2, 9]]


def test_waiting_for_data_is_its_share_of_a_step(tmp_path: Path, panels: dict[str, Axes]) -> None:
    draw_curves(STEPS, EPOCHS, tmp_path / "curves.png")
    assert line(panels["Seconds per step"], "waiting for data")[:, 1] == pytest.approx(0.05)


@pytest.mark.parametrize("splits", [1, 3])
def test_no_two_lines_of_a_panel_look_the_same(splits: int, tmp_path: Path, panels: dict[str, Axes]) -> None:
    names = [f"{way}_{name}" for way in ("image", "text") for name in ("r1", "r5", "r10")] + ["r_mean"]
    columns = {f"val_{split}_{name}": [1.0, 2.0, 3.0] for split in range(splits) for name in names}
    draw_curves(STEPS, EPOCHS[["epoch"]].assign(**columns), tmp_path / "curves.png")
    lines = panels["Validation recall by ITC, in %"].lines
    assert len(lines) == 7 * splits
    assert len({str(line.get_color()) for line in lines}) == len(lines)


def test_one_step_without_epochs_is_enough(tmp_path: Path, panels: dict[str, Axes]) -> None:
    draw_curves(STEPS[["epoch", "step", "loss"]].head(1), EPOCHS.head(0), tmp_path / "curves.png")
    assert list(panels) == ["Losses"]


def test_nothing_to_draw_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no step was logged"):
        draw_curves(STEPS.head(0), EPOCHS.head(0), tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


def test_the_matching_head_has_a_panel_of_its_own(tmp_path: Path, panels: dict[str, Axes]) -> None:
    draw_curves(STEPS.assign(itm_accuracy=0.75), EPOCHS, tmp_path / "curves.png")
    assert line(panels["Matching head"], "balanced accuracy (chance: 50%)")[:, 1].tolist() == [0.75] * len(STEPS)


def test_the_two_directions_of_recall_have_dashes_of_their_own(tmp_path: Path, panels: dict[str, Axes]) -> None:
    epochs = EPOCHS.assign(val_text_r1=[4.0, 8.0, 9.0], val_r_mean=[4.5, 8.5, 10.5])
    draw_curves(STEPS, epochs, tmp_path / "curves.png")
    lines = panels["Validation recall by ITC, in %"].lines
    assert {str(each.get_label()): each.get_linestyle() for each in lines} == {
        "image R@1": "-",
        "text R@1": "--",
        "mean of these": "-",
    }
