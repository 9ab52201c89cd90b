import io
import json
import math
import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import psutil
import pytest
from PIL import Image
from PIL.Image import Transpose
from torchvision.transforms import v2

from imgbench.decode import deep_extremes, image_format, open_image, to_rgb
from imgbench.errors import EXTRAS, DecodeError, UserError
from imgbench.intensity import Extremes, intensity_range
from imgbench.preprocessing import Preprocessing


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


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM"])
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
        (Image.fromarray(np.full((4, 4), 40000, np.uint16)), (156, 156, 156)),  # of 16 bits
        (Image.fromarray(np.full((4, 4), 1000, np.uint16)), (249, 249, 249)),  # of 10 bits
        (Image.fromarray(np.full((4, 4), 3, np.uint16)), (3, 3, 3)),  # never less than 8 bits
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
        (Image.fromarray(np.array([[-2, 2], [0, -1]], np.float32)), (64, 64, 64)),
        (Image.fromarray(np.array([[0, np.inf], [4, np.nan]], np.float32)), (0, 0, 0)),
        (Image.new("F", (4, 4), 153.0), (0, 0, 0)),  # a range without extent
        (Image.new("I", (4, 4), 153), (153, 153, 153)),
        (Image.frombytes("I;16B", (4, 4), np.full((4, 4), 200, ">u2").tobytes()), (200, 200, 200)),
        (Image.frombytes("I;16B", (4, 4), np.full((4, 4), 40000, ">u2").tobytes()), (156, 156, 156)),
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
    image = Image.fromarray(np.full((4, 4), 40000, np.uint16))
    assert color(open_image(encoded(image, "PNG", transparency=7))).tolist() == [156, 156, 156]


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


def png_header(width, height):
    """A PNG that has no pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("decode", [open_image, Preprocessing(8).decode])
def test_a_header_that_promises_a_gigantic_image_is_damaged(decode):
    with pytest.raises(DecodeError, match="20000 x 15001 pixels, beyond the limit of 300 million"):
        decode(png_header(20000, 15001))
    with pytest.raises(DecodeError, match="truncated"):  # within the limit, and without Pillow's warning
        decode(png_header(15000, 10000))


def test_an_image_beyond_the_memory_is_damaged(monkeypatch):
    monkeypatch.setattr("imgbench.decode.BYTES_PER_PIXEL", psutil.virtual_memory().total)
    with pytest.raises(DecodeError, match=r"9 x 9 pixels, too many for .* GB of memory"):
        open_image(encoded(noise(9, 9), "PNG"))


def test_tiff_obeys_the_limit_of_the_process_too_since_pillow_asks_it_while_decoding(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80)
    with pytest.raises(DecodeError, match="9 x 9 pixels, beyond the limit"):
        open_image(encoded(noise(9, 9), "TIFF"))


def test_importing_changes_no_limit_no_filter_and_what_pillow_opens():
    code = (
        "import warnings, numpy; from PIL import Image; Image.init()\n"
        "state = lambda: (Image.MAX_IMAGE_PIXELS, warnings.filters[:], list(Image.ID)); before = state()\n"
        "import imgbench.decode as p\n"
        "try: p.open_image(b'\\0\\0\\0\\x18ftypheic')\nexcept p.DecodeError: pass\n"
        "assert state() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["photo.jpg", "photo.eps"])
def test_an_eps_file_is_no_image_whatever_it_is_called(tmp_path, name, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    marker = tmp_path / "started"
    (tmp_path / "gs").write_text(f"#!/bin/sh\n: > {marker}\n")
    (tmp_path / "gs").chmod(0o755)
    (tmp_path / name).write_bytes(encoded(noise(9, 9), "EPS"))
    with pytest.raises(DecodeError, match="a document, which is not read"):
        open_image(tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer .* git lfs pull"),
        (b"\n<!DOCTYPE html><title>404</title>", "web page in place of the image.* Download"),
    ],
)
def test_what_a_download_left_in_place_of_an_image_is_named(tmp_path, data, what):
    (tmp_path / "photo.jpg").write_bytes(data)
    with pytest.raises(DecodeError, match=what):
        open_image(tmp_path / "photo.jpg")


def test_heic_is_read_upright_and_without_pillow_heif_says_what_to_install(monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    upright = Image.new("RGB", (64, 48), "blue")
    upright.paste((255, 0, 0), (0, 0, 64, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    heif.from_pillow(upright.transpose(Transpose.ROTATE_90)).save(file, exif=exif.tobytes(), quality=95)
    image = open_image(file.getvalue())
    assert image.size == (64, 48)
    assert color(image, (32, 4))[0] > 200 > 50 > color(image, (32, 40))[0]
    with pytest.raises(DecodeError):
        open_image(file.getvalue()[: len(file.getvalue()) // 2])
    monkeypatch.setitem(EXTRAS, "heic", "no_such_package")
    with pytest.raises(DecodeError, match=r'^HEIC, which needs: pip install "imgbench\[heic\]"$'):
        open_image(file.getvalue())


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"RIFF\n\n\n\nWEBPVP8 ", "WebP"),
        (b"%!PS-Adobe", None),
        (b"", None),
    ],
)
def test_a_file_is_known_by_its_first_bytes(head, name):
    assert image_format(head) == name


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
    assert same(preprocessing.square(image), v2.Resize((24, 24))(image))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resize", "image_size"), [(32, 24), (29, 24), ("crop", 24)])
def test_cropping_equals_torchvision_resize_and_centre_crop_bit_for_bit(size, resize, image_size):
    image = noise(*size)
    preprocessing = Preprocessing(image_size, resize)
    short_side = preprocessing.stored_size
    stored = preprocessing.square(image)
    square = v2.CenterCrop(short_side)(v2.Resize(short_side)(image))
    assert same(stored, square)
    seen = stored[preprocessing.center, preprocessing.center]
    assert same(seen, v2.CenterCrop(image_size)(square))


@pytest.mark.parametrize("size", [*SIZES, (1, 1), (1, 3000), (3000, 1)])
def test_padding_keeps_the_whole_photograph_in_the_middle_with_grey_beside_it(size):
    image = noise(*size)
    padded = np.array(Preprocessing(24, "pad").square(image))
    width, height = (max(1, math.floor(24 * side / max(size) + 0.5)) for side in size)
    left, top = (24 - width) // 2, (24 - height) // 2
    inside = (slice(top, top + height), slice(left, left + width))
    assert same(padded[inside], v2.Resize((height, width))(image))
    padded[inside] = 114
    assert (padded == 114).all()


@pytest.mark.parametrize("resize", ["squash", None, 0, True, 2.5, 8193, ["pad"]])
def test_what_is_no_way_to_resize_is_an_error_naming_the_option(resize):
    with pytest.raises(UserError, match=r"data\.resize=.*, but it is stretch, crop, pad, or to how many pixels"):
        Preprocessing(24, resize)


def test_real_photographs_resize_as_torchvision_does(real_photos):
    for path in real_photos:
        image = open_image(path)
        assert same(image, Image.open(path).convert("RGB"))
        assert same(Preprocessing(64).square(image), v2.Resize((64, 64))(image))
        expected = v2.Compose([v2.Resize(72), v2.CenterCrop(72)])(image)
        assert same(Preprocessing(64, 72).square(image), expected)


@pytest.fixture(scope="module")
def photograph():
    """Detail of all sizes, as a camera's photographs have it, 2000 x 1504."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((1504, 2000, 3), np.float32)
    for step in (2, 4, 8, 16, 32, 64, 128, 256, 512):
        coarse = rng.integers(0, 256, (1504 // step + 1, 2000 // step + 1, 3), dtype=np.uint8)
        pixels += step * np.asarray(Image.fromarray(coarse).resize((2000, 1504), Image.Resampling.BICUBIC), np.float32)
    pixels = (pixels - pixels.mean()) / pixels.std() * 45 + 128
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_were_decoded_at_reduced_size_almost_alike_and_are_decoded_in_full(
    photograph, options, orientation
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photograph, "JPEG", quality=90, exif=exif, **options)
    full = open_image(data)
    for settings in (Preprocessing(62), Preprocessing(125), Preprocessing(48, 62), Preprocessing(250)):
        assert same(settings.decode(data), settings.square(full))
        earlier = replace(settings, decoding=3)
        difference = np.abs(earlier.decode(data).astype(int) - settings.square(full))
        assert 0 < difference.max() <= 2
        assert (difference > 1).mean() <= 1e-3


def test_jpegs_that_are_not_large_or_do_not_divide_were_always_decoded_in_full(photograph):
    for width, height, size in [(1999, 1504, 60), (2000, 1501, 60), (2000, 1498, 60), (2000, 1504, 251)]:
        data = encoded(photograph.crop((0, 0, width, height)), "JPEG")
        settings = Preprocessing(size, decoding=3)
        assert same(settings.decode(data), settings.square(open_image(data)))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_large_jpeg_cut_short_is_damaged_at_reduced_size_too(photograph, share, options):
    data = encoded(photograph, "JPEG", **options)
    for decoding in (3, 4):
        with pytest.raises(DecodeError):
            Preprocessing(30, decoding=decoding).decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([Extremes(3, 1000, False), Extremes(0, 4000, False)], (0, 4095)),
        ([Extremes(0, 4095, False)], (0, 4095)),
        ([Extremes(0, 4096, False)], (0, 8191)),
        ([Extremes(0, 200, False)], (0, 255)),
        ([Extremes(-1024, 3071, False), Extremes(0, 9, False)], (-1024, 3071)),
        ([Extremes(0.2, 0.9, True)], (0, 1)),
        ([Extremes(0.2, 1.5, True), Extremes(0.5, 17, True)], (0.2, 17)),
    ],
)
def test_one_range_suits_all_images(found, expected):
    assert intensity_range(found) == expected


def test_a_stated_range_scales_files_of_12_bits(tmp_path):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(values).save(tmp_path / name)
        greys = Preprocessing(64, intensity=(0, 4095)).decode(tmp_path / name)[:, :, 0]
        assert len(np.unique(greys)) == 256
        assert np.abs(greys - values / 4095 * 255).max() <= 0.51


def test_extremes_are_of_deep_files_only():
    assert deep_extremes(encoded(noise(9, 9), "PNG")) is None
    assert deep_extremes(encoded(noise(9, 9), "JPEG")) is None
    deep = Image.fromarray(np.array([[np.nan, 2], [-3, np.inf]], np.float32))
    assert deep_extremes(encoded(deep, "TIFF")) == Extremes(-3, 2, True, False, -3, 2)
    with pytest.raises(DecodeError, match="not an image"):
        deep_extremes(b"text")


def test_preprocessing_without_a_range_keeps_what_it_meant():
    old = {key: value for key, value in Preprocessing(4).to_dict().items() if key != "intensity"}
    settings = Preprocessing.from_dict(old)
    assert np.unique(settings.decode(encoded(Image.fromarray(np.full((4, 4), 200, np.uint16)), "PNG"))).tolist() == [1]
    for value, grey in [(0.6, 153), (153.0, 153)]:
        assert settings.decode(Image.new("F", (4, 4), value)).max() == grey


def test_preprocessing_survives_json():
    for intensity in ((0.0, 4095.0), "file", "16 bit"):
        preprocessing = Preprocessing(24, intensity=intensity)
        assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing
    preprocessing = Preprocessing(24, 32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing
    for preprocessing in (Preprocessing(24), Preprocessing(24, "pad", padding=9)):
        assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
