import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Transpose
from torchvision.transforms import v2

from imgbench.preprocessing import DecodeError, Preprocessing, open_image, to_rgb


def noise(width, height, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def encoded(image, image_format, **options):
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def same(first, second):
    return np.array_equal(np.asarray(first), np.asarray(second))


def color(image, at=(1, 1)):
    """The pixel as numbers, so that the tests can allow for rounding."""
    return np.array(image.getpixel(at), int)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_format_decodes_to_its_colour(image_format):
    image = open_image(encoded(Image.new("RGB", (20, 10), (200, 90, 30)), image_format))
    assert image.mode == "RGB"
    assert image.size == (20, 10)
    assert np.abs(color(image) - (200, 90, 30)).max() <= 4


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (4, 4), 77), (77, 77, 77)),
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("RGB", (4, 4), (9, 8, 7)).quantize(4), (9, 8, 7)),
        (Image.new("LA", (4, 4), (100, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (200, 0, 100, 255)), (200, 0, 100)),
        (Image.new("RGBA", (4, 4), (200, 0, 100, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (200, 0, 100, 51)), (244, 204, 224)),  # a fifth of the colour, the rest white
        (Image.fromarray(np.full((4, 4), 257 * 77, np.uint16)), (77, 77, 77)),
        (Image.fromarray(np.full((4, 4), 200, np.uint16)), (1, 1, 1)),  # dark, but 16 bits nevertheless
    ],
)
def test_pngs_of_every_mode_become_rgb_over_white(image, expected):
    rgb = open_image(encoded(image, "PNG"))
    assert rgb.mode == "RGB"
    assert np.abs(color(rgb) - expected).max() <= 1


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGB", (4, 4), (9, 8, 7)), (9, 8, 7)),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("PA", (4, 4), (0, 0)), (255, 255, 255)),
        (Image.new("F", (4, 4), 0.6), (153, 153, 153)),
        (Image.new("F", (4, 4), 153.0), (153, 153, 153)),
        (Image.new("I", (4, 4), 153), (153, 153, 153)),
        (Image.frombytes("I;16B", (4, 4), np.full((4, 4), 200, ">u2").tobytes()), (1, 1, 1)),
        (Image.frombytes("I;16B", (4, 4), np.full((4, 4), 257 * 77, ">u2").tobytes()), (77, 77, 77)),
    ],
)
def test_other_modes_become_rgb_in_the_same_range(image, expected):
    assert np.abs(color(to_rgb(image)) - expected).max() <= 1


def test_cmyk_jpeg_keeps_its_colour():
    image = open_image(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(color(image) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (Image.new("P", (4, 4), 0), {"transparency": 0}),
        (Image.new("P", (4, 4), 0), {"transparency": b"\x00"}),
        (Image.new("L", (4, 4), 50), {"transparency": 50}),
        (Image.new("RGB", (4, 4), (1, 2, 3)), {"transparency": (1, 2, 3)}),
    ],
)
def test_a_transparent_colour_becomes_white(image, options):
    assert color(open_image(encoded(image, "PNG", **options))).tolist() == [255, 255, 255]


def test_16_bit_grey_with_a_transparent_value_keeps_its_brightness():
    image = Image.fromarray(np.full((4, 4), 257 * 77, np.uint16))
    assert color(open_image(encoded(image, "PNG", transparency=7))).tolist() == [77, 77, 77]


STORED_AS = {  # how a camera stores an upright image, by the orientation it writes
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED_AS)
def test_exif_orientation_is_honoured(orientation):
    upright = noise(12, 7)
    transpose = STORED_AS[orientation]
    stored = upright if transpose is None else upright.transpose(transpose)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert same(open_image(encoded(stored, "PNG", exif=exif)), upright)
    assert open_image(encoded(stored, "JPEG", exif=exif)).size == upright.size


def test_damaged_exif_does_not_cost_the_image():
    assert open_image(encoded(noise(12, 7), "JPEG", exif=b"Exif\0\0no TIFF header")).size == (12, 7)


def test_an_animation_counts_as_its_first_frame():
    frames = [Image.new("RGB", (8, 8), name) for name in ("red", "green", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert color(open_image(data)).tolist() == [255, 0, 0]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "TIFF"])
def test_a_file_cut_short_is_damaged(image_format, share):
    data = encoded(noise(64, 64), image_format)
    with pytest.raises(DecodeError):
        open_image(data[: int(len(data) * share)])


def test_half_a_jpeg_that_passes_for_one_is_damaged():
    data = encoded(noise(64, 64), "JPEG")
    half = data[: len(data) // 2]
    Image.open(io.BytesIO(half)).verify()  # what only looks at the header finds nothing wrong
    with pytest.raises(DecodeError, match="truncated"):
        open_image(half)


def test_text_is_not_an_image():
    with pytest.raises(DecodeError, match="not an image"):
        open_image(b"a text, and no image")


def test_a_header_that_promises_a_gigantic_image_is_damaged():
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(DecodeError, match="exceeds limit"):
        open_image(data)


def test_a_path_and_its_bytes_decode_alike(tmp_path):
    data = encoded(noise(9, 9), "PNG")
    (tmp_path / "图 1").write_bytes(data)
    assert same(open_image(tmp_path / "图 1"), open_image(data))
    assert same(open_image(str(tmp_path / "图 1")), open_image(data))


SIZES = [(24, 24), (57, 33), (33, 57), (16, 100), (101, 16), (7, 5), (30, 47), (47, 30), (300, 211), (211, 300)]


@pytest.mark.parametrize("size", SIZES)
def test_stretching_equals_torchvision_bit_for_bit(size):
    image = noise(*size)
    preprocessing = Preprocessing(24)
    assert preprocessing.stored_size == 24
    assert preprocessing.center == slice(0, 24)
    assert same(preprocessing.resize(image), v2.Resize((24, 24))(image))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("short_side", "image_size"), [(32, 24), (29, 24), (24, 24)])
def test_short_side_equals_torchvision_resize_and_centre_crop_bit_for_bit(size, short_side, image_size):
    image = noise(*size)
    preprocessing = Preprocessing(image_size, short_side)
    stored = preprocessing.resize(image)
    square = v2.CenterCrop(short_side)(v2.Resize(short_side)(image))
    assert same(stored, square)
    seen = stored[preprocessing.center, preprocessing.center]
    assert same(seen, v2.CenterCrop(image_size)(square))


def test_real_photographs_resize_as_torchvision_does(real_photos):
    for path in real_photos:
        image = open_image(path)
        assert same(image, Image.open(path).convert("RGB"))
        assert same(Preprocessing(64).resize(image), v2.Resize((64, 64))(image))
        expected = v2.Compose([v2.Resize(72), v2.CenterCrop(72)])(image)
        assert same(Preprocessing(64, 72).resize(image), expected)


def test_preprocessing_survives_json():
    preprocessing = Preprocessing(24, 32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing
    assert Preprocessing.from_dict(Preprocessing(24).to_dict()) == Preprocessing(24)
