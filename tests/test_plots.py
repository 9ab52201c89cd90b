import csv

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager, rcParams
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from imgbench.evaluation import plots
from imgbench.evaluation.calibration import ReliabilityBin
from imgbench.evaluation.plots import (
    BLUE,
    CJK_FONTS,
    ORANGE,
    draw_confusion,
    draw_curves,
    draw_grid,
    draw_pareto,
    draw_prediction,
    draw_probabilities,
    draw_reliability,
)
from imgbench.number import Number

COLUMNS = ["epoch", "train/loss", "train/acc", "val/loss", "val/acc", "lr"]
CHINESE = ["猫", "狗", "斑马"]


def pixels_of(path):
    """(H, W, 3) of a PNG that is not blank."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels != 255).any(2).mean() > 0.005, "blank"
    return pixels


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.fixture
def write_metrics(tmp_path):
    def write(*rows):
        with (tmp_path / "metrics.csv").open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        return tmp_path / "metrics.csv"

    return write


@pytest.fixture
def four_epochs(write_metrics):
    return write_metrics(
        (1, 2.0, 0.3, 1.5, 0.5, 1e-3),
        (2, 1.0, 0.5, 0.4, 0.7, 1e-3),
        (3, 0.5, 0.8, 0.6, 0.9, 5e-4),
        (4, 0.2, 0.9, 0.7, 0.8, 1e-4),
    )


def kept_epochs(figure):
    """What each panel marks as the epoch kept."""
    lines = [[line for line in axes.lines if str(line.get_label()).startswith("kept")] for axes in figure.axes]
    return [(line.get_xdata()[0], line.get_label()) for panel in lines for line in panel]


def test_curves_are_the_columns_of_metrics_csv(four_epochs, tmp_path):
    figure = draw_curves(four_epochs, tmp_path / "curves.png", "cnn on digits", 3)
    assert figure is not None
    drawn = {line.get_label(): np.transpose(line.get_xydata()).tolist() for axes in figure.axes for line in axes.lines}
    assert drawn["train/loss"] == [[1, 2, 3, 4], [2, 1, 0.5, 0.2]]
    assert drawn["val/acc"] == [[1, 2, 3, 4], [0.5, 0.7, 0.9, 0.8]]
    assert drawn["lr"] == [[1, 2, 3, 4], [1e-3, 1e-3, 5e-4, 1e-4]]
    assert "cnn on digits" in texts_of(figure)
    assert pixels_of(tmp_path / "curves.png").shape == (480, 1560, 3)


def test_curves_mark_the_epoch_kept_in_every_panel(four_epochs):
    assert kept_epochs(draw_curves(four_epochs, None, "", 3)) == [(3, "kept: epoch 3")] * 3


def test_curves_without_a_best_epoch_mark_nothing_and_skip_missing_values(write_metrics):
    path = write_metrics((1, 1, 0.5, "nan", "nan", 1), (2, 1, 0.5, 1, 0.9, 1), (3, 1, 0.5, "", "", 1))
    assert kept_epochs(draw_curves(path, None, "", None)) == []


@pytest.mark.parametrize("rate", [1e-3, 0.0])
def test_learning_rate_axis_starts_at_zero(write_metrics, rate):
    figure = draw_curves(write_metrics((1, 1, 0.5, 1, 0.5, rate), (2, 1, 0.5, 1, 0.5, rate)), None, "", None)
    assert figure is not None
    low, high = figure.axes[-1].get_ylim()
    assert low == 0
    assert high > rate


def test_curves_of_one_epoch_show_a_point(write_metrics, tmp_path):
    figure = draw_curves(write_metrics((1, 1.0, 0.5, 1.1, 0.6, 1e-3)), tmp_path / "curves.png", "short", 1)
    assert figure is not None
    assert figure.axes[0].lines[0].get_marker() == "o"
    assert kept_epochs(figure)[0][0] == 1
    pixels_of(tmp_path / "curves.png")


def test_no_epoch_draws_no_curves(write_metrics, tmp_path):
    assert draw_curves(write_metrics(), tmp_path / "curves.png", "", None) is None
    assert not (tmp_path / "curves.png").exists()


def test_confusion_writes_the_counts_and_colours_by_the_share_of_the_true_class(tmp_path):
    confusion = np.array([[3, 1, 0], [0, 40, 10], [0, 0, 0]])  # a class without images divides by zero otherwise
    figure = draw_confusion(confusion, ["a", "b", "c"], tmp_path / "confusion.png", "title")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == [str(count) for count in confusion.ravel()]
    assert np.allclose(np.asarray(axes.images[0].get_array()), [[0.75, 0.25, 0], [0, 0.8, 0.2], [0, 0, 0]])
    assert axes.get_ylabel() == "true"
    assert axes.get_xlabel() == "predicted"
    height, width, _ = pixels_of(tmp_path / "confusion.png").shape
    assert height >= 400
    assert width >= 600


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


def test_reliability_shows_accuracy_with_its_interval_against_confidence_and_how_many_images(tmp_path):
    bins = [ReliabilityBin(0.55, Number(0.5, 0.2, 0.8, 10, 10)), ReliabilityBin(0.95, Number(0.9, 0.85, 0.95, 90, 90))]
    figure = draw_reliability(bins, tmp_path / "reliability.png", "title $5")
    upper, lower = figure.axes
    (points,) = [line for line in upper.lines if line.get_marker() == "o"]
    assert np.asarray(points.get_xydata()).tolist() == [[0.55, 0.5], [0.95, 0.9]]
    assert [bar.get_height() for bar in lower.patches if isinstance(bar, Rectangle)] == [10, 90]
    pixels_of(tmp_path / "reliability.png")


@pytest.mark.parametrize("number", [1, 7])
def test_grid_shows_each_image_under_its_name(number, tmp_path):
    images = np.random.default_rng(0).random((number, 8, 8, 3))
    figure = draw_grid(images, [f"name {i}" for i in range(number)], tmp_path / "samples.png", "title")
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [f"name {i}" for i in range(number)]
    for axes, image in zip(shown, images, strict=True):
        assert np.allclose(np.asarray(axes.images[0].get_array()), image)
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
    plots._explain_boxes.cache_clear()
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
    font.setupOS2()
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
        [to_hex(line.get_color()) == ORANGE for line in axes.lines if line.get_marker() == "o"] for axes in figure.axes
    ]
    assert marked == [[True, True, False], [True, False, False]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1  large", "2  small", "3  poor"]
