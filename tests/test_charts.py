"""Line charts of the report."""

import numpy as np
import pytest

from imgbench.evaluation.charts import HEIGHT, WIDTH, Chart, Line


def chart(*lines, **options):
    return Chart("title", "x", "y", lines, **options)


def test_the_ends_of_the_axes_are_the_corners_of_the_box():
    one = chart(Line("a", (0, 1), (0, 1)), x_range=(0, 1), y_range=(0, 1))
    left, top, right, bottom = one.box
    assert one.points(one.lines[0]) == [(left, bottom), (right, top)]
    assert 0 < left < right < WIDTH
    assert 0 < top < bottom < HEIGHT


def test_ticks_are_round_numbers_inside_the_axes_in_per_cent_where_asked_for():
    one = chart(Line("a", (1, 40), (0.113, 0.887)))
    assert [text for _, text in one.x_ticks] == ["10", "20", "30", "40"]
    assert [text for _, text in one.y_ticks] == ["20", "40", "60", "80"]
    pixels = [pixel for pixel, _ in one.y_ticks]
    assert pixels == sorted(pixels, reverse=True), "upwards"
    assert [text for _, text in chart(Line("a", (0, 1), (0, 2)), percent=False).y_ticks][-1] == "2"


def test_points_without_a_value_are_left_out():
    one = chart(Line("a", (1, 2, 3), (0.1, float("nan"), 0.3)))
    assert len(one.points(one.lines[0])) == 2
    assert "nan" not in one.path(one.lines[0])


@pytest.mark.parametrize("line", [Line("a", (), ()), Line("a", (3,), (0.5,)), Line("a", (1, 2), (float("nan"),) * 2)])
def test_a_single_point_or_none_has_axes_too(line):
    one = chart(line)
    assert np.isfinite([pixel for pixel, _ in one.x_ticks + one.y_ticks]).all()


def test_intervals_stand_at_their_points():
    one = chart(Line("a", (1, 2), (0.5, 0.6), (0.4, 0.5), (0.6, 0.7), dots=True), mark=2)
    (x, low, high), _ = one.bars(one.lines[0])
    assert x == one.points(one.lines[0])[0][0]
    assert low > one.points(one.lines[0])[0][1] > high
    assert one.mark_at == one.points(one.lines[0])[1][0]
