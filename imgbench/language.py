"""The languages in which pages are written, that of whoever sits here, and how numbers are said."""

import locale
import os

LANGUAGES = ("en", "zh")
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def language_of_locale() -> str:
    """The language of whoever sits here, as far as pages are written in it; else English."""
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):  # in the order in which gettext asks them
        if value := os.environ.get(name):
            return _known(value)
    return _known(locale.getlocale()[0] or "")  # such as `Chinese (Simplified)_China` of Windows


def _known(name: str) -> str:
    return "zh" if name.lower().startswith(("zh", "chinese")) else "en"


def probability(value: float) -> str:
    """Of a class, in per cent and never as certain: a network knows of nothing for sure."""
    return "> 99.9 %" if value >= 0.9995 else "< 0.1 %" if value < 0.0005 else f"{100 * value:.1f} %"


def counted(number: int, noun: str = "image", plural: str | None = None) -> str:
    """For example `1 image`, `2 images`, `3 classes`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"
