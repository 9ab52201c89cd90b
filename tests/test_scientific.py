"""Files of more than 8 bits in colour, TIFFs that Pillow cannot read, raw photographs, DICOM."""

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from made_files import dicom, png, profile, tiff
from PIL import Image
from pydicom.uid import JPEGLSLossless

from imgbench.data.look import header_of
from imgbench.decode import deep_extremes, open_image
from imgbench.errors import EXTRAS, DecodeError
from imgbench.preprocessing import Preprocessing

Y, X = np.mgrid[0:40, 0:60]
PIXELS = np.dstack([X * 4, Y * 6, 255 - X - Y]).astype(np.uint8)
TWELVE_BITS = PIXELS.astype(np.uint16) * 16
OPAQUE = np.full((40, 60, 1), 65535, np.uint16)


COLOURS = {
    "png": png(TWELVE_BITS, 2),
    "png with opacity": png(np.dstack([TWELVE_BITS, OPAQUE]), 6),
    "tiff": tiff(TWELVE_BITS, photometric="rgb"),
    "tiff, big-endian": tiff(TWELVE_BITS, photometric="rgb", byteorder=">"),
    "tiff, lzw": tiff(TWELVE_BITS, photometric="rgb", compression="lzw"),
    "tiff, zip and differences": tiff(TWELVE_BITS, photometric="rgb", compression="zlib", predictor=True),
    "tiff, tiles": tiff(TWELVE_BITS, photometric="rgb", tile=(32, 32)),
    "tiff, planes": tiff(np.moveaxis(TWELVE_BITS, 2, 0), photometric="rgb", planarconfig="separate"),
    "tiff, planes, lzw": tiff(
        np.moveaxis(TWELVE_BITS, 2, 0), photometric="rgb", planarconfig="separate", compression="lzw"
    ),
    "tiff with a fourth channel": tiff(
        np.dstack([TWELVE_BITS, OPAQUE]), photometric="rgb", extrasamples=["unspecified"]
    ),
    "tiff with opacity": tiff(np.dstack([TWELVE_BITS, OPAQUE]), photometric="rgb", extrasamples=["unassalpha"]),
    "tiff multiplied by opacity": tiff(
        np.dstack([TWELVE_BITS, OPAQUE]), photometric="rgb", extrasamples=["assocalpha"]
    ),
    "tiff of floats": tiff((TWELVE_BITS / 4080).astype(np.float32), photometric="rgb"),
    "tiff of double floats": tiff(TWELVE_BITS / 4080, photometric="rgb", compression="lzw"),
}


@pytest.mark.parametrize("kind", COLOURS)
def test_colours_of_more_than_8_bits_keep_their_values(kind):
    found = np.asarray(open_image(COLOURS[kind])).astype(int)
    assert np.abs(found - PIXELS).max() <= 1
    extremes = deep_extremes(COLOURS[kind])
    assert extremes and extremes.colour
    assert extremes.floats == ("floats" in kind)
    shown = Preprocessing(20, intensity=(0, 1) if extremes.floats else (0, 4095)).decode(COLOURS[kind])
    assert np.abs(shown.astype(int) - Preprocessing(20).square(Image.fromarray(PIXELS))).max() <= 1


GREYS = {
    "png with opacity": png(np.dstack([TWELVE_BITS[..., 0], OPAQUE]), 4),
    "tiff with opacity": tiff(
        np.dstack([TWELVE_BITS[..., 0], OPAQUE]), photometric="minisblack", extrasamples=["unassalpha"]
    ),
    "half floats": tiff((PIXELS[..., 0] / 255).astype(np.float16)),
    "double floats": tiff(PIXELS[..., 0] / 255),
    "64 bits": tiff(PIXELS[..., 0].astype(np.uint64)),
    "32 bits": tiff(PIXELS[..., 0].astype(np.uint32) << 24),
    "white is 0": tiff(255 - PIXELS[..., 0].astype(np.uint16), photometric="miniswhite"),
}


@pytest.mark.parametrize("kind", GREYS)
def test_greys_of_all_kinds_of_numbers_keep_their_values(kind):
    found = np.asarray(open_image(GREYS[kind])).astype(float)
    ours = PIXELS[..., 0].astype(float)
    if kind in ("32 bits", "white is 0"):  # which are as far apart as they are in the file
        ours = (ours - ours.min()) * 255 / (ours.max() - (ours.min() if kind == "white is 0" else 0))
        found = found * 255 / found.max()
    assert np.abs(found - ours[..., None]).max() <= 1


@pytest.mark.parametrize("data", [png(np.dstack([TWELVE_BITS, 0 * OPAQUE]), 6), png(np.dstack([X, 0 * X]), 4)])
def test_what_is_transparent_in_16_bits_is_white(data):
    assert np.asarray(open_image(data)).min() == 255


def test_a_deep_photograph_is_upright_and_has_the_colours_of_its_profile():
    from test_colour import expected

    gentle = (TWELVE_BITS // 2 + 1000).astype(np.uint16)
    tags = [(274, 3, 1, 6, False), (34675, 7, None, profile("ProPhoto RGB"), False)]
    for options in ({}, {"compression": "lzw"}):
        data = tiff(np.rot90(gentle).copy(), photometric="rgb", extratags=tags, **options)
        found = np.asarray(open_image(data)).astype(float)
        assert found.shape == (40, 60, 3)
        right = expected(gentle / 4095 * 255, "ProPhoto RGB")
        assert np.abs(found - right).mean() < 1.5


def test_an_image_that_pillow_opened_has_what_pillow_keeps(tmp_path):
    (tmp_path / "deep.png").write_bytes(COLOURS["png"])
    with Image.open(tmp_path / "deep.png") as image:
        assert Preprocessing(60, intensity=(0, 4095)).decode(image).max() == 15


def test_models_of_before_get_the_high_bytes():
    old = Preprocessing.from_dict({"image_size": 60, "mean": [0] * 3, "std": [1] * 3, "intensity": "file"})
    assert old.decode(COLOURS["png"]).max() == 15


@pytest.mark.parametrize("kind", ["png", "tiff, lzw", "tiff, planes", "tiff, planes, lzw", "tiff of double floats"])
def test_a_deep_file_cut_short_is_damaged(kind):
    with pytest.raises(DecodeError):
        open_image(COLOURS[kind][: int(len(COLOURS[kind]) * 0.9)])


def test_channels_without_a_colour_are_refused_by_their_number():
    data = tiff(np.dstack([TWELVE_BITS, TWELVE_BITS[..., :2]]), photometric="minisblack", planarconfig="contig")
    with pytest.raises(DecodeError, match="a TIFF of 5 channels; expected one, or red, green and blue"):
        open_image(data)


def test_without_tifffile_what_to_install_is_said(monkeypatch):
    monkeypatch.setitem(EXTRAS, "tiff", "no_such_package")
    assert np.asarray(open_image(COLOURS["tiff, lzw"])).max() > 200
    with pytest.raises(DecodeError, match=r'which needs: pip install "imgbench\[tiff\]"'):
        open_image(COLOURS["tiff, planes"])


@pytest.mark.parametrize("kind", ["dng", "nef", "cr2", "cr3", "raf"])
def test_raw_photographs_are_not_mistaken_for_their_previews(kind):
    if kind in ("dng", "nef"):
        file, small = io.BytesIO(), PIXELS[:30]
        with tifffile.TiffWriter(file) as writer:
            tags = [(50706, 1, 4, (1, 4, 0, 0), False)] if kind == "dng" else []
            writer.write(small, photometric="rgb", subfiletype=1, subifds=1, extratags=tags, metadata=None)
            writer.write(np.zeros((400, 600), np.uint16), photometric=32803, metadata=None, extratags=[
                (33421, 3, 2, (2, 2), True), (33422, 1, 4, (0, 1, 1, 2), True)])  # fmt: skip
        data = file.getvalue()
    else:
        data = {"cr2": b"II*\0\x10\0\0\0CR\2\0", "cr3": b"\0\0\0\x18ftypcrx \0", "raf": b"FUJIFILMCCD-RAW 0201"}[kind]
    with pytest.raises(DecodeError, match=r"raw photograph.*evelop"):
        open_image(data.ljust(200, b"\0"))


HOUNSFIELD = np.linspace(-1000, 1000, 2400).reshape(40, 60).astype(np.int16)


def greys(data: bytes, **options) -> np.ndarray:
    return np.asarray(open_image(data, **options))[..., 0].astype(float)


def test_dicom_is_seen_through_its_window():
    seen = ((HOUNSFIELD - 39.5) / 399 + 0.5).clip(0, 1) * 255  # DICOM PS3.3, C.11.2.1.2
    window: dict[str, Any] = {"WindowCenter": 40, "WindowWidth": 400}
    assert np.abs(greys(dicom(HOUNSFIELD, **window)) - seen).max() <= 1
    stored: dict[str, Any] = {"RescaleSlope": 2, "RescaleIntercept": -1024}
    assert np.abs(greys(dicom(((HOUNSFIELD + 1024) // 2).astype(np.uint16), **window, **stored)) - seen).max() <= 2
    several: dict[str, Any] = {"WindowCenter": [40, 600], "WindowWidth": [400, 2000]}
    assert np.abs(greys(dicom(HOUNSFIELD, **several)) - seen).max() <= 1
    negative = dicom(HOUNSFIELD, **window, PhotometricInterpretation="MONOCHROME1")
    assert np.abs(greys(negative) - (255 - seen)).max() <= 1


def test_dicom_without_a_window_is_scaled_as_other_files_of_many_bits():
    data = dicom(HOUNSFIELD, PixelPaddingValue=-2000)
    assert deep_extremes(data) == (-1000, 1000, False, False, -1000, 1000)
    assert np.abs(greys(data, intensity=(-1000, 1000)) - (HOUNSFIELD / 2000.0 + 0.5) * 255).max() <= 1


def test_of_dicom_the_colours_and_the_first_frame_are_read():
    assert np.array_equal(np.asarray(open_image(dicom(PIXELS))), PIXELS)
    frames = np.stack([PIXELS[..., 0], PIXELS[..., 1]])
    data = dicom(frames.reshape(80, 60), NumberOfFrames=2, Rows=40)
    assert np.array_equal(greys(data), PIXELS[..., 0])
    header = header_of(io.BytesIO(data))
    assert header and header.several and (header.format, header.width, header.height) == ("DICOM", 60, 40)


def test_of_persons_only_hashes_are_known():
    headers = [
        header_of(io.BytesIO(dicom(HOUNSFIELD, PatientID=patient, SeriesInstanceUID=series)))
        for patient, series in (("4711", "1.1"), ("4711", "1.2"), ("", "1.1"))
    ]
    first, second, third = (header.subject for header in headers if header)
    assert first[:2] == second[:2] and first[2] != second[2]
    assert third == (0, first[1], first[2])
    assert "4711" not in repr(headers) and "Jane" not in repr(headers)


@pytest.mark.parametrize("damage", ["cut", "no image", "compressed"])
def test_what_is_said_of_a_damaged_dicom_names_nobody(damage):
    data = dicom(HOUNSFIELD)
    if damage == "cut":
        data = data[:-100]
    elif damage == "no image":
        data = data[: data.index(b"\x28\x00\x10\x00US")]
    else:
        data = dicom(HOUNSFIELD, syntax=JPEGLSLossless)
    with pytest.raises(DecodeError, match=r"DICOM.*gdcmconv" if damage == "compressed" else "DICOM") as error:
        open_image(data)
    assert not any(word in str(error.value) for word in ("4711", "Jane", "1.2.3", "1.2.4"))


def test_dicom_without_pydicom_says_what_to_install(monkeypatch):
    monkeypatch.setitem(EXTRAS, "dicom", "no_such_package")
    with pytest.raises(DecodeError, match=r'^DICOM, which needs: pip install "imgbench\[dicom\]"$'):
        open_image(dicom(HOUNSFIELD))
