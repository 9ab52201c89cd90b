"""Damaged files of all formats: each is decoded or named as damaged, and none ends the process or takes long."""

import io
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from PIL import Image

from imgbench.benchmark.rounds import start
from imgbench.decode import deep_extremes
from imgbench.errors import DecodeError, is_installed
from imgbench.preprocessing import Preprocessing

log = logging.getLogger(__name__)

# Kind of file -> how Pillow writes it.
KINDS: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "JPEG"},
    "JPEG, progressive": {"format": "JPEG", "progressive": True},
    "PNG": {"format": "PNG"},
    "PNG, 16 bits": {"format": "PNG"},
    "GIF": {"format": "GIF"},
    "BMP": {"format": "BMP"},
    "TIFF": {"format": "TIFF"},
    "TIFF, LZW": {"format": "TIFF", "compression": "tiff_lzw"},
    **({"TIFF, 16-bit planes": {}} if is_installed("tiff") else {}),
    "WebP": {"format": "WEBP"},
    "AVIF": {"format": "AVIF"},
    "JPEG 2000": {"format": "JPEG2000"},
    "PPM": {"format": "PPM"},
    **({"HEIC": {"format": "HEIF"}} if is_installed("heic") else {}),
    **({"DICOM": {}} if is_installed("dicom") else {}),
}


def whole_file(kind: str) -> bytes:
    """A small picture with edges and noise."""
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 200, (6, 8, 3)), np.ones((8, 8, 1))) + rng.integers(0, 50, (48, 64, 3))
    image = Image.fromarray(pixels.astype(np.uint8))
    if kind == "PNG, 16 bits":
        image = Image.fromarray((pixels[..., 0] * 200).astype(np.uint16))
    if kind == "HEIC":
        import pillow_heif

        pillow_heif.register_heif_opener()
    file = io.BytesIO()
    if kind == "TIFF, 16-bit planes":
        import tifffile

        planes = np.moveaxis(pixels * 200, 2, 0).astype(np.uint16)
        tifffile.imwrite(file, planes, photometric="rgb", planarconfig="separate", metadata=None)
        return file.getvalue()
    if kind == "DICOM":
        _write_dicom(file, (pixels[..., 0] * 16).astype(np.uint16))
        return file.getvalue()
    image.save(file, **KINDS[kind])
    return file.getvalue()


def _write_dicom(file: io.BytesIO, values: np.ndarray) -> None:
    from pydicom import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid(entropy_srcs=["fuzz"])
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelData = values.tobytes()
    data.save_as(file, enforce_file_format=True)


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(1, len(data))]


def _changed(data: bytes, rng: np.random.Generator) -> bytes:
    content = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 20)):
        content[place] = rng.integers(0, 256)
    return bytes(content)


def _changed_header(data: bytes, rng: np.random.Generator) -> bytes:
    return _changed(data[:64], rng) + data[64:]


def _zeroed(data: bytes, rng: np.random.Generator) -> bytes:
    first, last = sorted(rng.integers(0, len(data), 2))
    return data[:first] + bytes(last - first) + data[last:]


def _moved(data: bytes, rng: np.random.Generator) -> bytes:
    first, last = sorted(rng.integers(0, len(data), 2))
    return data[:first] + data[last:] + data[first:last]


def _joined(data: bytes, rng: np.random.Generator) -> bytes:
    return _cut(data, rng) + _cut(data, rng)


DAMAGE: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    _cut, _changed, _changed_header, _zeroed, _moved, _joined,
)  # fmt: skip


def damaged_files(kind: str, number: int) -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    data = whole_file(kind)
    for i in range(number):
        yield DAMAGE[i % len(DAMAGE)](data, rng)


def _decode_all(connection: Connection, kind: str, number: int) -> None:
    """Sends what has come of each file: `decoded`, `named`, or the error that nobody expects."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where libtiff writes what it finds, by itself
    preprocessing = Preprocessing(32)
    for data in damaged_files(kind, number):
        begun = time.perf_counter()
        try:
            deep_extremes(data)
            pixels = preprocessing.decode(data)
            found = "decoded" if pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8 else f"{pixels.shape}"
        except DecodeError as error:
            found = "named" if str(error) else "named without a reason"
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        connection.send((found, time.perf_counter() - begun))


def measure_fuzz(number: int) -> dict[str, dict[str, float]]:
    """For each kind of file: the share of damaged ones that were decoded or named, and how many were which.

    `others` ended in an error that nobody expects, or ended the process.
    """
    rows = {}
    each = max(1, number // len(KINDS))
    for kind in KINDS:
        process, connection = start(_decode_all, kind=kind, number=each)
        found: list[tuple[str, float]] = []
        try:
            found += [connection.recv() for _ in range(each)]
        except EOFError:
            log.warning("%s: file %d has ended the process.", kind, len(found))
        process.join()
        counts = Counter(result for result, _ in found)
        good = counts.pop("decoded", 0), counts.pop("named", 0)
        for result, times in counts.items():
            log.warning("%s: %d x %s", kind, times, result)
        rows[kind] = {
            "value": sum(good) / each,
            "decoded": good[0],
            "named": good[1],
            "others": each - sum(good),
            "longest, ms": 1000 * max((seconds for _, seconds in found), default=0),
        }
    return rows
