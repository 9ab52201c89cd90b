import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from commands import forked
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager, rcParams
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from imgbench.evaluation import figure_style
from imgbench.evaluation.figure_style import CJK_FONTS
from imgbench.evaluation.plots import (
    BLUE,
    ORANGE,
    WIDTH,
    Chart,
    Line,
    as_svg,
    draw_charts,
    draw_confusion,
    draw_grid,
    draw_pareto,
    draw_prediction,
    draw_probabilities,
)
from imgbench.number import Number

if sys.platform != "win32":
    import resource

CHINESE = ["猫", "狗", "斑马"]


def draw_where_files_stay_small(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    draw_confusion(np.eye(2, dtype=int), ["cat", "dog"], path)


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no such limit")
def test_a_picture_that_does_not_fit_on_the_disk_leaves_none(tmp_path):
    assert forked(draw_where_files_stay_small, tmp_path / "confusion.png").returncode == 1
    assert not [*tmp_path.iterdir()]


def pixels_of(path):
    """(H, W, 3) of a PNG that is not blank."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels != 255).any(2).mean() > 0.005, "blank"
    return pixels


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def chart(*lines, **options):
    return Chart("title", "x label", "y label", lines, **options)


def lines_of(axes):
    return {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in axes.lines}


def test_charts_stand_side_by_side_each_with_its_lines_and_labels(tmp_path):
    first = chart(Line("train", (1, 2), (2, 1)), Line("val", (1, 2), (1, 0.5)), mark=(2, "kept: epoch 2"))
    figure = draw_charts([first, chart(Line("lr", (1, 2), (0.1, 0.2)))], tmp_path / "charts.png", "cnn on digits")
    left, right = figure.axes
    assert lines_of(left)["train"] == [[1, 2], [2, 1]]
    assert lines_of(left)["val"] == [[1, 1], [2, 0.5]]
    assert [x for x, _ in lines_of(left)["kept: epoch 2"]] == [2, 2]
    assert lines_of(right) == {"lr": [[1, 0.1], [2, 0.2]]}
    assert {"cnn on digits", "x label", "y label", "train", "val", "kept: epoch 2"} <= set(texts_of(figure))
    assert "lr" not in texts_of(figure), "a line alone needs no legend"
    assert pixels_of(tmp_path / "charts.png").shape[1] == 2 * WIDTH * 120 // 72


def test_points_without_a_value_are_left_out_and_a_single_one_is_seen():
    figure = draw_charts([chart(Line("a", (1, 2, 3), (0.1, float("nan"), 0.3))), chart(Line("b", (3,), (0.5,)))], None)
    many, single = (axes.lines[0] for axes in figure.axes)
    assert np.asarray(many.get_xydata()).tolist() == [[1, 0.1], [3, 0.3]]
    assert (many.get_marker(), single.get_marker()) == ("", "o")


@pytest.mark.parametrize("line", [Line("a", (), ()), Line("a", (3,), (0.5,)), Line("a", (1, 2), (float("nan"),) * 2)])
def test_a_single_point_or_none_has_axes_too(line, tmp_path):
    draw_charts([chart(line, mark=(1, "kept"))], tmp_path / "chart.png")
    pixels_of(tmp_path / "chart.png")


def test_ticks_are_round_numbers_and_epochs_are_whole():
    (axes,) = draw_charts([chart(Line("a", (1, 4), (11.3, 88.7)))], None).axes
    assert [f"{tick:g}" for tick in axes.get_xticks() if 1 <= tick <= 4] == ["1", "2", "3", "4"]
    assert [f"{tick:g}" for tick in axes.get_yticks() if 11.3 <= tick <= 88.7] == ["20", "40", "60", "80"]


def test_intervals_stand_at_their_points_and_counts_below_them():
    line = Line("test", (55, 95), (50, 90), (20, 85), (80, 95), dots=True)
    guide = Line("perfect", (0, 100), (0, 100))
    options = {"x_range": (0, 100), "guides": [guide], "counts": ((55, 95), (10, 90), "images")}
    upper, lower = draw_charts([chart(line, **options)], None).axes
    (intervals,) = (found for found in upper.collections if isinstance(found, LineCollection))
    assert [segment.tolist() for segment in intervals.get_segments()] == [[[55, 20], [55, 80]], [[95, 85], [95, 95]]]
    assert lines_of(upper) == {"test": [[55, 50], [95, 90]], "perfect": [[0, 0], [100, 100]]}
    assert [bar.get_height() for bar in lower.patches if isinstance(bar, Rectangle)] == [10, 90]
    assert upper.get_xlim() == lower.get_xlim() == (0, 100)


def test_in_a_page_a_figure_takes_the_colours_of_the_page_and_its_texts_stay_texts():
    names = ["<b>&", "猫", "a\x00\udce9", BLUE]
    figure = draw_confusion(np.eye(4, dtype=int), names, None)
    svg = as_svg(figure, 'a "title"')
    assert svg == as_svg(draw_confusion(np.eye(4, dtype=int), names, None), 'a "title"')
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == 'a "title"'
    assert root.attrib["viewBox"].split() == ["0", "0", *(f"{72 * inches:g}" for inches in figure.get_size_inches())]
    texts = [element.text for element in root.iter("text")]
    assert {"<b>&", "猫", "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}", BLUE} <= set(texts)
    assert "fill: var(--a)" in svg
    styles = " ".join(element.attrib.get("style", "") for element in root.iter())
    assert not re.search("#[0-9a-f]{6}|font-family", styles)
    assert "style" not in {element.tag for element in root.iter()}, "it would be one of the whole page"


def test_confusion_writes_the_counts_and_colours_by_the_share_of_the_true_class(tmp_path):
    confusion = np.array([[3, 1, 0], [0, 40, 10], [0, 0, 0]])  # a class without images divides by zero otherwise
    figure = draw_confusion(confusion, ["a", "b", "c"], tmp_path / "confusion.png", "title")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == [str(count) for count in confusion.ravel()]
    cells = {(cell.get_y() + 0.5, cell.get_x() + 0.5): cell for cell in axes.patches if isinstance(cell, Rectangle)}
    assert set(cells) == {(0, 0), (0, 1), (1, 1), (1, 2)}
    assert to_hex(cells[0, 0].get_facecolor()) == BLUE
    assert to_hex(cells[0, 1].get_facecolor()) == ORANGE
    alphas = {place: cell.get_alpha() or 0 for place, cell in cells.items()}
    assert alphas[0, 1] < alphas[0, 0] < alphas[1, 1]
    assert axes.get_ylabel() == "true"
    assert axes.get_xlabel() == "predicted"
    pixels_of(tmp_path / "confusion.png")


def test_confusion_of_a_hundred_classes_names_all_and_writes_no_counts(tmp_path):
    names = [f"class number {i}" for i in range(100)]
    figure = draw_confusion(np.eye(100, dtype=int) * 9, names, tmp_path / "confusion.png", "title")
    axes = figure.axes[0]
    assert not axes.texts
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    heights = np.array([label.get_window_extent().height for label in axes.get_yticklabels()])
    pitch = axes.get_window_extent().height / 100
    assert heights.max() < 1.2 * pitch, "names overlap"
    assert max(pixels_of(tmp_path / "confusion.png").shape) <= 2100


@pytest.mark.parametrize("k", [2, 8])
def test_long_names_and_titles_stay_inside_the_picture(k, tmp_path):
    names = [f"{i} " + "a class with a very long name " * 3 for i in range(k)]
    title = "outputs/a folder/cnn/2026-01-31_12-00-00/" * 3 + "\ntest accuracy 98.33 % (95 % interval 96.4 to 99.2 %)"
    figure = draw_confusion(np.eye(k, dtype=int), names, tmp_path / "confusion.png", title)
    figure.set_dpi(120)
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text():
            extent = text.get_window_extent()
            assert extent.x0 >= -1, text
            assert extent.x1 <= figure.bbox.width + 1, text
            assert extent.y1 <= figure.bbox.height + 1, text


@pytest.mark.parametrize("name", ["$5 to $10", r"$\nonsense$", "a_b^c", "100 %", "<b>"])
def test_special_characters_are_drawn_as_they_are(name, tmp_path):
    figure = draw_confusion(np.eye(2, dtype=int), [name, "other"], tmp_path / "confusion.png", name)
    assert all(not text.get_parse_math() for text in figure.findobj(Text) if text.get_text() == name)
    pixels_of(tmp_path / "confusion.png")


@pytest.mark.parametrize("number", [1, 7])
def test_grid_shows_each_image_under_its_name(number, tmp_path):
    images = np.random.default_rng(0).random((number, 8, 8, 3))
    figure = draw_grid(images, [f"name {i}" for i in range(number)], tmp_path / "samples.png", "title")
    (axes,) = figure.axes
    for i, (shown, name) in enumerate(zip(axes.images, axes.texts, strict=True)):
        assert np.allclose(np.asarray(shown.get_array()), images[i])
        assert name.get_text() == f"name {i}"
        left, right, bottom, top = shown.get_extent()
        assert left < name.get_position()[0] < right and bottom < top < name.get_position()[1]
    assert len(axes.images) == number
    pixels_of(tmp_path / "samples.png")


@pytest.mark.parametrize("shape", [(1, 1), (30, 40), (400, 20), (1, 1000), (1000, 1)])
def test_prediction_is_readable_above_an_image_of_any_shape(shape, tmp_path):
    text = "a rather long class name 92.1 % / another long class name 4.1 % / a third 2.0 %"
    figure = draw_prediction(np.full((*shape, 3), (200, 30, 30), np.uint8), text, tmp_path / "prediction.png")
    pixels = pixels_of(tmp_path / "prediction.png")
    red, green = pixels[..., 0].astype(int), pixels[..., 1]
    assert (red > green + 20).any(), "the image is not seen"
    figure.set_dpi(120)
    extents = [title.get_window_extent() for title in figure.texts]
    assert all(extent.x0 >= 0 and extent.x1 <= pixels.shape[1] for extent in extents)
    assert " ".join(figure.texts[0].get_text().split()) == text


def test_probabilities_are_bars_of_the_likeliest_classes_with_the_prediction_on_top(tmp_path):
    many = {f"class {i}": i / 190 for i in range(20)}
    figure = draw_probabilities([many, {"a": 0.9, "b": 0.1}], ["one.png", "two.png"], tmp_path / "bars.png")
    first, second = figure.axes
    bars = [bar for bar in first.patches if isinstance(bar, Rectangle)]
    assert [bar.get_width() for bar in bars] == pytest.approx([i / 190 for i in range(19, 9, -1)])
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [ORANGE, *[BLUE] * 9]
    assert [label.get_text() for label in second.get_yticklabels()] == ["a", "b"]
    assert [axes.get_title() for axes in figure.axes] == ["one.png", "two.png"]
    pixels_of(tmp_path / "bars.png")


@pytest.fixture
def fonts(monkeypatch):
    """The fonts of a machine without a Chinese one."""
    figure_style.explain_boxes.cache_clear()
    others = [font for font in font_manager.fontManager.ttflist if font.name not in CJK_FONTS]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", others)


@pytest.fixture
def chinese_font(fonts, tmp_path):
    """A font that draws the characters of `CHINESE` as squares, installed under a usual name."""
    characters = {character: f"u{ord(character):X}" for character in "".join(CHINESE)}
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    names = [".notdef", *characters.values()]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(character): name for character, name in characters.items()})
    font.setupGlyf(dict.fromkeys(names, square))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "WenQuanYi Micro Hei", "styleName": "Regular"})
    font.setupOS2(usWeightClass=500)  # as WenQuanYi Zen Hei has it: no font of the name is of normal weight
    font.setupPost()
    font.save(tmp_path / "font.ttf")
    font_manager.fontManager.addfont(tmp_path / "font.ttf")


def draw_everything(folder, names):
    k = len(names)
    draw_grid(np.zeros((k, 4, 4, 3)), names, folder / "samples.png", names[0])
    draw_confusion(np.eye(k, dtype=int), names, folder / "confusion.png", names[0])
    draw_prediction(np.zeros((9, 9, 3), np.uint8), names[0], folder / "prediction.png")
    draw_probabilities([dict.fromkeys(names, 1 / k)], [names[0]], folder / "bars.png")
    return [pixels_of(folder / f"{name}.png") for name in ("samples", "confusion", "prediction", "bars")]


def test_chinese_names_are_drawn_with_an_installed_font(chinese_font, tmp_path, caplog, capfd):
    draw_everything(tmp_path, CHINESE)
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


def test_chinese_names_without_a_font_are_boxes_that_one_log_line_explains(fonts, tmp_path, caplog, capfd):
    draw_everything(tmp_path, CHINESE)
    assert len(caplog.records) == 1
    assert "no installed font has their characters" in caplog.text
    assert "fonts-noto-cjk" in caplog.text
    assert capfd.readouterr() == ("", "")


def test_first_picture_of_a_process_uses_the_font_already(chinese_font):
    figure = draw_confusion(np.eye(3, dtype=int), CHINESE, None, CHINESE[0])
    for text in figure.findobj(Text):
        if text.get_text() in CHINESE:
            assert "WenQuanYi Micro Hei" in text.get_fontfamily()


def test_drawing_leaves_the_settings_of_matplotlib_as_they_were(fonts, tmp_path):
    before = rcParams["font.family"], rcParams["text.parse_math"]
    draw_everything(tmp_path, ["a", "b"])
    assert (rcParams["font.family"], rcParams["text.parse_math"]) == before


def test_ladder_marks_what_nothing_beats_in_cost_and_accuracy_and_names_the_numbers():
    accuracies = [Number(value, value - 0.1, value + 0.05, 9, 9) for value in (0.9, 0.8, 0.7)]
    points = {
        "large": (500.0, 1.0, accuracies[0]),  # the most accurate
        "small": (5.0, 2.0, accuracies[1]),  # smaller than it, and not faster
        "poor": (50.0, 3.0, accuracies[2]),
    }
    figure = draw_pareto(points, ("MB", "ms"), None)
    marked = [
        [line.get_marker() == "s" for line in axes.lines if line.get_marker() in ("o", "s")] for axes in figure.axes
    ]
    assert marked == [[True, True, False], [True, False, False]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1  large", "2  small", "3  poor"]


@pytest.mark.parametrize("costs", [(98.2, 105.1), (0.9, 1.11), (4.66, 5.3), (1.0, 1.0), (3.0, 14.0), (0.3, 500.0)])
def test_axes_of_costs_have_numbers_however_near_these_are(costs):
    figure = draw_pareto({str(cost): (cost, Number(0.9, 0.8, 1.0, 9, 9)) for cost in costs}, ["MB"], None)
    figure.canvas.draw()
    low, high = figure.axes[0].get_xlim()
    assert 2 <= sum(low <= place <= high for place in figure.axes[0].get_xticks()) <= 12
