import re

import pytest
from matplotlib import rcParams

from imgbench.evaluation.figure_style import COLOURS, COLUMN, MARKERS, PAGE, paper_figure, paper_style, save_vector


def drawn(stem, width):
    with paper_style():
        figure = paper_figure(width, 50)
        axes = figure.subplots()
        for i, (colour, marker) in enumerate(zip(COLOURS, MARKERS, strict=True)):
            axes.plot([0, 1], [i, i + 1], color=colour, marker=marker, label=f"$a_{i}")
        axes.legend()
        save_vector(figure, stem)


@pytest.mark.parametrize("width", [COLUMN, PAGE])
def test_a_figure_has_its_width_in_millimetres_and_carries_its_letters(width, tmp_path, caplog):
    caplog.set_level("INFO")
    before = dict(rcParams)
    drawn(tmp_path / "a.b", width)
    assert dict(rcParams) == before
    pdf, svg = (tmp_path / "a.b.pdf").read_bytes(), (tmp_path / "a.b.svg").read_text("utf-8")
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", pdf)
    assert box and float(box[1]) / 72 * 25.4 == pytest.approx(width, abs=0.01)
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    found = re.search(r'width="([\d.]+)pt"', svg)
    assert found and float(found[1]) / 72 * 25.4 == pytest.approx(width, abs=0.01)
    assert "<text" not in svg
    assert caplog.text == ""


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("one", "other"):
        drawn(tmp_path / name, COLUMN)
    for suffix in (".pdf", ".svg"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"other{suffix}").read_bytes()
