"""What `predict` takes from Python."""

import numpy as np
import pytest
import torch
from PIL import Image

import imgbench
from imgbench.errors import DecodeError, UserError
from imgbench.inference.inputs import decode_batches, single_images, to_image
from imgbench.preprocessing import Preprocessing

SMALL = Preprocessing(16)
RGB = np.random.default_rng(0).integers(0, 256, (31, 22, 3), np.uint8)


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad", 20])
def test_decode_batches_agrees_with_the_evaluation_batches_bit_for_bit(tmp_path, make_folder, make_data, resize):
    make_folder(tmp_path, {"cat": 20, "dog": 20}, size=(31, 22), ending=".jpg")
    data = make_data(tmp_path, resize=resize)
    expected = torch.cat([data.on_after_batch_transfer(batch, 0)[0] for batch in data.test_dataloader()])
    paths = [tmp_path / data.table.paths[row] for row in data.rows("test")]
    opened = [Image.open(path) for path in paths]
    arrays = [np.asarray(image) for image in opened]
    for sources in (paths, [str(path) for path in paths], opened, arrays):
        decoded = list(decode_batches(sources, data.preprocessing, batch_size=4))
        assert [index for indices, _, _ in decoded for index in indices] == list(range(len(paths)))
        assert torch.equal(torch.cat([images for _, images, _ in decoded]), expected)


def test_decode_batches_reports_bad_files_by_their_index(tmp_path, make_folder):
    make_folder(tmp_path, {"cat": 2})
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "half.png").write_bytes((tmp_path / "cat/0.png").read_bytes()[:900])
    names = ["cat/0.png", "text.jpg", "cat/1.png", "half.png", "missing.png"]
    batches = list(decode_batches([tmp_path / name for name in names], SMALL, batch_size=3))
    assert [indices for indices, _, _ in batches] == [[0, 2], []]
    assert [images.shape for _, images, _ in batches] == [(2, 3, 16, 16), (0, 3, 16, 16)]
    errors = {index: reason for _, _, errors in batches for index, reason in errors.items()}
    assert errors[1] == "not an image"
    assert "truncated" in errors[3]
    assert "No such file" in errors[4]


def test_decode_batches_takes_grey_arrays_and_no_images_at_all():
    ((_, images, errors),) = decode_batches([np.full((5, 9), 7, np.uint8)], SMALL)
    assert errors == {}
    assert images.unique().tolist() == [7]
    assert list(decode_batches([], SMALL)) == []


def floats(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RGB),
        RGB,
        RGB / 255,
        (RGB / 255).astype(np.float32),
        np.dstack([RGB, np.full((31, 22), 255, np.uint8)]),
        RGB.astype(np.int64),
        np.asfortranarray(RGB),
        torch.from_numpy(RGB).permute(2, 0, 1),
        floats(RGB),
        floats(RGB).double().requires_grad_(),
        torch.from_numpy(RGB.astype(np.int32)).permute(2, 0, 1),
    ],
)
def test_all_ways_to_give_an_image_mean_the_same_pixels(image):
    ((_, pixels, errors),) = decode_batches(single_images(image), SMALL)
    assert errors == {}
    assert np.array_equal(pixels[0].permute(1, 2, 0), SMALL.decode(Image.fromarray(RGB)))


@pytest.mark.parametrize("grey", [RGB[:, :, 0], RGB[:, :, :1], RGB[:, :, 0] / 255, floats(RGB)[:1], floats(RGB)[0]])
def test_grey_needs_no_channel(grey):
    assert np.array_equal(np.asarray(to_image(grey, "file")), RGB[:, :, 0])


def test_colours_of_many_bits_are_scaled_as_the_files_of_the_model():
    deep = RGB.astype(np.uint16) * 16
    assert np.abs(np.asarray(to_image(deep, (0, 4095))).astype(int) - RGB).max() <= 1
    assert np.asarray(to_image(deep, (0, 65535))).max() <= 16


def test_bfloat16_is_rounded_and_not_refused():
    found = np.asarray(to_image(floats(RGB).bfloat16(), "file")).astype(int)
    assert np.abs(found - RGB).max() <= 1


def test_opacity_of_an_array_is_over_white():
    glass = np.zeros((9, 9, 4), np.uint8)
    ((_, pixels, _),) = decode_batches([glass], SMALL)
    assert pixels.unique().tolist() == [255]


def test_batches_are_taken_apart():
    batch = np.stack([RGB, 255 - RGB])
    tensors = torch.stack([floats(RGB), floats(255 - RGB)])
    for images, number in [(batch, 2), (tensors, 2), ([batch, RGB, tensors], 5), (iter([RGB, RGB]), 2), ([], 0)]:
        sources = single_images(images)
        assert len(sources) == number
        assert all(isinstance(source, np.ndarray | torch.Tensor) and source.ndim == 3 for source in sources)


@pytest.mark.parametrize(
    ("values", "intensity", "expected"),
    [
        (np.full((9, 9), 1000, np.uint16), (0, 4095), 62),
        (np.full((9, 9), 1000, np.uint16), "file", 249),  # as of 10 bits
        (np.full((9, 9), 1000, np.uint16), "16 bit", 4),
        (np.full((9, 9, 3), 1000, np.uint16), "file", 249),
        (np.full((9, 9), -5, np.int16), (-10, 0), 128),
        (np.full((9, 9), 250.0), (0, 1000), 64),
        (np.full((9, 9), 0.25), (0, 1), 64),
    ],
)
def test_more_than_8_bits_are_scaled_as_files_are(values, intensity, expected):
    assert np.unique(np.asarray(to_image(values, intensity))).tolist() == [expected]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (RGB.astype(np.float32), r"float32 \(31, 22, 3\) with values from 0 to 255; expected floats from 0 to 1"),
        (floats(RGB) * 4 - 2, r"tensor of float32 \(3, 31, 22\) with values from -2 to 2; expected floats from 0"),
        (RGB / 255 + np.nan, "values from nan to nan; expected floats from 0 to 1"),
        (RGB.astype(np.int32) - 9, r"from -9 to 246; expected uint8, or whole numbers from 0"),
        (RGB > 5, r"array of bool \(31, 22, 3\); expected uint8"),
        (RGB.transpose(2, 0, 1), r"uint8 \(3, 31, 22\); expected \(height, width, 3\).*\.transpose\(1, 2, 0\)"),
        (torch.from_numpy(RGB), r"tensor of uint8 \(31, 22, 3\); expected \(3, height, width\).*\.permute\(2, 0, 1\)"),
        (RGB[:3], r"\(3, 22, 3\), whose channels may be the first axis or the last"),
        (torch.from_numpy(RGB[:3]), r"\(3, 22, 3\), whose channels may be the first axis or the last"),
        (RGB[:, :, :2], r"\(31, 22, 2\); expected"),
        (np.zeros((2, 2, 2, 2, 2)), r"\(2, 2, 2, 2, 2\); expected"),
        (RGB[0, 0], r"\(3,\); expected"),
        (RGB[:0], r"\(0, 22, 3\); expected"),
    ],
)
def test_what_is_not_clear_is_refused_with_what_was_found_and_expected(image, reason):
    with pytest.raises(DecodeError, match=reason):
        to_image(image, "file")


def test_shares_are_not_taken_for_values_of_12_bits():
    with pytest.raises(DecodeError, match=r"from 0 to 0\.5, but the files .* had values from 0 to 4095"):
        to_image(np.array([[0, 0.5]]), (0, 4095))


@pytest.mark.parametrize("nothing", [None, 7, [RGB, None], [[RGB]]])
def test_what_is_no_image_is_an_error_that_says_what_is(nothing):
    with pytest.raises(UserError, match="expected a path, a PIL image, an array"):
        single_images(nothing)


def test_predict_names_the_image_that_is_not_clear(tiny_run):
    predictor = imgbench.load(tiny_run.path)
    assert len(predictor.predict(np.stack([RGB, RGB]))) == 2
    with pytest.raises(DecodeError, match=r"image 1: an array of float64 .*expected floats from 0 to 1"):
        predictor.predict([RGB, RGB * 1.0])
