"""When photographs were taken, as their cameras wrote it into them."""

import io
import re

from PIL import ExifTags

from imgbench.decode import FORMATS, HEAD, image_format

DATE = re.compile(r"(\d{4}):([01]\d):([0-3]\d) ([0-2]\d:[0-5]\d:[0-5]\d)")


def date_taken(data: bytes) -> str | None:
    """EXIF's DateTimeOriginal of a file's bytes, such as `2026-01-31 12:00:00.25`.

    Empty where the file says none, and None where it could not be asked, being damaged or no image.
    """
    name = image_format(data[:HEAD])
    if name is None:
        return None
    try:
        with FORMATS[name].open(io.BytesIO(data)) as image:
            # Asked for its EXIF entries, a PNG without any would be decoded as a whole.
            if name == "PNG" and "exif" not in image.info:
                image.info["exif"] = _late_exif(data)
            if not image.info.get("exif") and name != "TIFF":
                return ""
            entries = image.getexif().get_ifd(ExifTags.IFD.Exif)
            found = DATE.match(str(entries.get(ExifTags.Base.DateTimeOriginal, "")))
            part = re.match(r"\d+", str(entries.get(ExifTags.Base.SubsecTimeOriginal, "")))
    except Exception:  # damaged files raise nearly anything
        return None
    if found is None or found[1] == "0000":
        return ""
    return f"{found[1]}-{found[2]}-{found[3]} {found[4]}" + (f".{part[0]}" if part else "")


def _late_exif(data: bytes) -> bytes:
    """EXIF entries that stand behind the pixels of a PNG, where some programs write them; else nothing."""
    place = 8
    while place + 8 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if kind == b"eXIf":
            return data[place + 8 : place + 8 + length]
        place += 12 + length
    return b""
