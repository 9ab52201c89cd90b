"""Files that Pillow does not write: TIFFs of all kinds, DICOM; and what the conformance set has of its own."""

import io
from typing import Any

import numpy as np
import tifffile
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from imgbench.publish.conformance import png_16 as png
from imgbench.publish.conformance import profile

__all__ = ["dicom", "png", "profile", "tiff"]


def tiff(values: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **options)
    return file.getvalue()


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
