"""Files that Pillow does not write: colour profiles, 16-bit colours, TIFFs of all kinds, DICOM."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import tifffile
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

# Name -> red, green and blue as XYZ of the white D50, and gamma.
SPACES = {
    "Display P3": ([(0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841)], 2.2),
    "Adobe RGB": ([(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)], 2.2),
    "ProPhoto RGB": ([(0.79767, 0.28804, 0), (0.13519, 0.71188, 0), (0.03134, 0.00009, 0.82491)], 1.8),
}


def profile(name: str) -> bytes:
    """An ICC profile of version 4 (ICC.1:2010), of three colours and a gamma."""
    primaries, gamma = SPACES[name]

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    text = name.encode("utf-16-be")
    text = b"mluc\0\0\0\0" + struct.pack(">II", 1, 12) + b"enUS" + struct.pack(">II", len(text), 28) + text
    white = (0.9642, 1, 0.8249)
    parts = [(b"desc", text), (b"cprt", text), (b"wtpt", b"XYZ \0\0\0\0" + fixed(*white))]
    parts += [(b"%cXYZ" % letter, b"XYZ \0\0\0\0" + fixed(*xyz)) for letter, xyz in zip(b"rgb", primaries, strict=True)]
    parts += [(b"%cTRC" % letter, b"para\0\0\0\0\0\0\0\0" + fixed(gamma)) for letter in b"rgb"]
    start = 132 + 12 * len(parts)
    table, body = struct.pack(">I", len(parts)), b""
    for key, value in parts:
        table += key + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI12s", start + len(body), b"", 0x04200000, b"mntrRGB XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(*white)
    return head.ljust(128, b"\0") + table + body


def tiff(values: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **options)
    return file.getvalue()


def png(values: np.ndarray, colour_type: int) -> bytes:
    """A PNG of 16 bits, which Pillow does not write in colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def dicom(values: np.ndarray, syntax: UID = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, "1.2.3"
    data.Rows, data.Columns = values.shape[:2]
    data.SamplesPerPixel = 1 if values.ndim == 2 else values.shape[2]
    data.PhotometricInterpretation = "MONOCHROME2" if values.ndim == 2 else "RGB"
    data.BitsAllocated = data.BitsStored = 8 * values.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(values.dtype.kind == "i")
    if values.ndim == 3:
        data.PlanarConfiguration = 0
    data.PatientName, data.PatientID, data.StudyInstanceUID = "Doe^Jane", "4711", "1.2.4"
    for name, value in elements.items():
        setattr(data, name, value)
    data.PixelData = values.tobytes() if syntax == ExplicitVRLittleEndian else encapsulate([b"JPEG"])
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()
