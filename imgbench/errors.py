"""Errors a user can mend: a message without a stack trace, and exit code 2; and what is wrong with a file."""

import importlib.util


class UserError(Exception):
    """Names the option or file, what was found, what was expected, and what mends it."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message without a stack trace, as at the command line."""
        return [f"Error: {self}"]


class DecodeError(Exception):
    """The file is no image, or a damaged one."""


# What reads the files that Pillow does not, by the extra of imgbench that brings it.
EXTRAS = {"heic": "pillow_heif", "tiff": "tifffile", "dicom": "pydicom"}


class NeedsExtra(DecodeError):
    """The file may be whole, but what reads it is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what}, which needs: pip install "imgbench[{extra}]"')
        self.extra = extra


def is_installed(extra: str) -> bool:
    return importlib.util.find_spec(EXTRAS[extra]) is not None
