"""TIFF and DICOM files that Pillow does not read, each by the library for it, as Pillow opens its own."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from imgbench.errors import DecodeError, NeedsExtra, is_installed

REDUCED = 1  # a TIFF's NewSubfileType: the page is a smaller copy of another one
DNG_VERSION, SUB_IFDS, NEW_SUBFILE_TYPE = 50706, 330, 254
BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339
MOSAIC = 32803  # a photometric interpretation: what a camera's sensor counted
RAW = "a camera's raw photograph, of which only a small preview could be read: develop it into a JPEG or TIFF"
CHANNELS = "a TIFF of {} channels; expected one, or red, green and blue: save those that are to be seen as RGB"


def open_tiff(file: io.BytesIO) -> Image.Image:
    """By Pillow, or where it cannot, by tifffile.

    Raises:
        DecodeError: it is a raw photograph, or has another number of channels than can be shown.
    """
    try:
        image = TiffImagePlugin.TiffImageFile(file)
    except SyntaxError as error:
        if "unknown pixel mode" not in str(error):
            raise
        file.seek(0)
        return OtherTiff(file)
    tags = image.tag_v2
    preview = tags.get(NEW_SUBFILE_TYPE, 0) & REDUCED and SUB_IFDS in tags
    if DNG_VERSION in tags or preview or tags.get(PHOTOMETRIC) == MOSAIC:
        raise DecodeError(RAW)
    deep = max(tags.get(BITS, (1,))) > 8
    # Pillow mixes up 16-bit colours that lie one after the other, and has no 16 bits of what opacity was multiplied to.
    if deep and image.mode in ("RGB", "RGBA") and (tags.get(PLANAR) == 2 or "RGBa" in str(image.tile[0].args)):
        file.seek(0)
        return OtherTiff(file)
    return image


class OtherTiff(ImageFile.ImageFile):
    """The first page of a TIFF that Pillow cannot read: 16-bit planes, floats of 16 or 64 bits or of colours."""

    format = "TIFF"
    format_description = "TIFF read by tifffile"

    def _open(self) -> None:
        if not is_installed("tiff"):
            raise NeedsExtra("a TIFF of an unusual kind", "tiff")
        import tifffile

        assert self.fp is not None
        self._tiff = tifffile.TiffFile(self.fp)
        self._page: Any = self._tiff.pages.first
        page = self._page
        if DNG_VERSION in page.tags or page.photometric == MOSAIC:
            raise DecodeError(RAW)
        self.colour = page.photometric == tifffile.PHOTOMETRIC.RGB
        self._opacity = page.samplesperpixel > 1 and any(kind in (1, 2) for kind in page.extrasamples[:1])
        channels = page.samplesperpixel - self._opacity
        if channels != 1 and not (self.colour and channels >= 3):
            raise DecodeError(CHANNELS.format(page.samplesperpixel))
        if (
            page.photometric not in (0, 1, 2)
            or page.imagedepth > 1
            or page.dtype is None
            or page.dtype.kind not in "uif"
        ):
            raise DecodeError(f"a TIFF of {page.bitspersample} bits and {page.photometric!s}, which cannot be read")
        self._size = page.imagewidth, page.imagelength
        self._mode = "RGB" if self.colour else "F"
        self.is_animated = len(self._tiff.pages) > 1
        if profile := page.tags.get(34675):
            self.info["icc_profile"] = bytes(profile.value)
        if orientation := page.tags.get(274):
            self.getexif()[274] = int(orientation.value)

    def values(self) -> tuple[np.ndarray, np.ndarray | None]:
        """(H, W) or (H, W, 3) as they stand in the file, and the opacity (H, W) from 0 to 1 where there is one."""
        page = self._page
        try:
            values = page.asarray()
        except ValueError as error:
            if "imagecodecs" in str(error):
                raise NeedsExtra(f"a TIFF compressed by {page.compression.name}", "tiff") from error
            raise
        if values.ndim == 3 and page.planarconfig == 2:
            values = np.moveaxis(values, 0, 2)
        opacity, most = None, np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1
        if values.ndim == 3:
            colours = 3 if self.colour else 1
            if self._opacity:
                opacity = (values[..., colours] / most).astype(np.float32)
            values = values[..., :colours] if self.colour else values[..., 0]
            if opacity is not None and page.extrasamples[0] == 1:  # the colours were multiplied by it
                shares = opacity if values.ndim == 2 else opacity[..., None]
                values = (values / np.maximum(shares, 1e-6)).clip(0, most).astype(values.dtype)
        if page.photometric == 0:  # the smallest is white
            values = -values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
        return values, opacity

    def load(self) -> Any:
        """Nothing: the pixels are not Pillow's."""


# What is read of a DICOM file: nothing that names a person or a place, but the three below, which are never kept as
# they are.
DICOM_TAGS = [
    "BitsAllocated", "BitsStored", "Columns", "HighBit", "ModalityLUTSequence", "NumberOfFrames",
    "PhotometricInterpretation", "PixelPaddingValue", "PixelRepresentation", "PlanarConfiguration", "RescaleIntercept",
    "RescaleSlope", "Rows",
    "SamplesPerPixel", "VOILUTFunction", "VOILUTSequence", "WindowCenter", "WindowWidth",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
]  # fmt: skip
SUBJECT = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID"]  # who or what is seen, from coarse to fine
GREY = ("MONOCHROME1", "MONOCHROME2")


def open_dicom(file: io.BytesIO) -> Image.Image:
    """Raises DecodeError: pydicom is missing, or there is no image in the file."""
    if not is_installed("dicom"):
        raise NeedsExtra("DICOM", "dicom")
    return Dicom(file)


class Dicom(ImageFile.ImageFile):
    """The first frame of a DICOM file: greys of 8 bits where it says which window is to be seen, or else all values.

    `info["subject"]` has the hashes of patient, study and series, 0 where the file does not say.
    """

    format = "DICOM"
    format_description = "DICOM read by pydicom"

    def _open(self) -> None:
        from pydicom import dcmread

        assert self.fp is not None
        with _without_particulars():
            data = self._data = dcmread(self.fp, specific_tags=[*DICOM_TAGS, *SUBJECT], stop_before_pixels=True)
            if "Rows" not in data or "Columns" not in data:
                raise DecodeError("DICOM without an image")
            self._size = int(data.Columns), int(data.Rows)
            self.is_animated = int(data.get("NumberOfFrames") or 1) > 1
            # As bytes, since what is converted is checked too, and warnings quote it.
            self.info["subject"] = tuple(_hashed(data.get_item(name)) for name in SUBJECT)
            grey = data.get("PhotometricInterpretation") in GREY
            whole = all(float(data.get(name) or 0).is_integer() for name in ("RescaleSlope", "RescaleIntercept"))
            self._loaded = False
            self._mode = "RGB" if not grey else "L" if self._is_windowed else "I" if whole else "F"

    @property
    def _is_windowed(self) -> bool:
        data = self._data
        window = data.get("WindowWidth") not in (None, "") and data.get("WindowCenter") not in (None, "")
        return window or bool(data.get("VOILUTSequence"))

    def load(self) -> Any:
        from pydicom import dcmread
        from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
        from pydicom.pixels.utils import pixel_array

        if not self._loaded:
            assert self.fp is not None
            self.fp.seek(0)
            with _without_particulars():
                data = dcmread(
                    self.fp, specific_tags=[*DICOM_TAGS, "PixelData", "FloatPixelData", "DoubleFloatPixelData"]
                )
                try:
                    values = pixel_array(data, index=0)
                except RuntimeError as error:
                    syntax = data.file_meta.TransferSyntaxUID
                    raise DecodeError(
                        f"DICOM compressed as {syntax.name}, which cannot be read: decompress it, for example with "
                        "gdcmconv --raw"
                    ) from error
                if data.PhotometricInterpretation == "PALETTE COLOR":
                    values = apply_color_lut(values, data)
                if data.PhotometricInterpretation in GREY:
                    padding = values == data.PixelPaddingValue if "PixelPaddingValue" in data else None
                    values = apply_modality_lut(values, data)
                    if padding is not None and padding.any() and not padding.all():
                        values = np.where(padding, values[~padding].min(), values)
                    values = self._seen(values.astype(np.float64))
                elif values.dtype != np.uint8:
                    most = 2 ** (16 if data.PhotometricInterpretation == "PALETTE COLOR" else data.BitsStored) - 1
                    values = (values * (255 / most)).round().astype(np.uint8)
                loaded = Image.fromarray(values)
            self.im, self._mode, self._loaded = loaded.im, loaded.mode, True
        return super().load()

    def _seen(self, values: np.ndarray) -> np.ndarray:
        """Values of the modality as uint8 of the window (PS3.3, C.11.2.1), or all of them where there is none."""
        data = self._data
        inverted = data.PhotometricInterpretation == "MONOCHROME1"
        if not self._is_windowed:
            return (-values if inverted else values).astype(np.int32 if self.mode == "I" else np.float32)
        if data.get("VOILUTSequence"):
            from pydicom.pixels.processing import apply_voi

            most = 2 ** int(data.VOILUTSequence[0].LUTDescriptor[2]) - 1
            shares = apply_voi(values.astype(np.int64), data) / most
        else:
            center, width = _first(data.WindowCenter), _first(data.WindowWidth)
            function = str(data.get("VOILUTFunction") or "LINEAR")
            if function == "SIGMOID":
                shares = 1 / (1 + np.exp(-4 * (values - center) / max(width, 1e-6)))
            elif function == "LINEAR_EXACT":
                shares = (values - center) / max(width, 1e-6) + 0.5
            else:
                shares = (values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5
        shares = shares.clip(0, 1)
        return ((1 - shares if inverted else shares) * 255).round().astype(np.uint8)


def _first(value: Any) -> float:
    """Of several windows, the first is the one to be seen at first."""
    return float(value if isinstance(value, str | float | int) else value[0])


def _hashed(element: Any) -> int:
    text = bytes(element.value or b"").strip(b" \0") if element is not None else b""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) if text else 0


@contextmanager
def _without_particulars() -> Iterator[None]:
    """What pydicom says of a file may quote names of persons from it: only the kind of error is told."""
    try:
        yield
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(f"DICOM that is damaged, or of a kind that cannot be read ({type(error).__name__})") from None
