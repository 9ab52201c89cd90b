"""Files that Pillow does not write: TIFFs of all kinds, DICOM; and what the conformance set has of its own."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import tifffile
from PIL import ExifTags, Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from imgbench.publish.drawn_files import SPACES, profile
from imgbench.publish.drawn_files import png_16 as png

__all__ = ["SPACES", "chunk", "dicom", "exif_of_colours", "png", "profile", "tiff", "with_chunks"]


def tiff(values: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunks(data: bytes, *chunks: bytes) -> bytes:
    """A PNG that says its colours so, behind its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def exif_of_colours(space: int = 0xFFFF, index: str = "R03") -> Image.Exif:
    """What a camera says of its colours: ColorSpace and InteroperabilityIndex; by default Adobe RGB."""
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = "camera"  # without an entry of its own, nothing is written
    exif.get_ifd(ExifTags.IFD.Exif).update({ExifTags.Base.ColorSpace: space, ExifTags.IFD.Interop: {1: index}})
    return exif


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
