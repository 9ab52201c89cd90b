"""The languages in which pages are written, and that of whoever sits here."""

import locale
import os

LANGUAGES = ("en", "zh")


def language_of_locale() -> str:
    """The language of whoever sits here, as far as pages are written in it; else English."""
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):  # in the order in which gettext asks them
        if value := os.environ.get(name):
            return _known(value)
    return _known(locale.getlocale()[0] or "")  # such as `Chinese (Simplified)_China` of Windows


def _known(name: str) -> str:
    return "zh" if name.lower().startswith(("zh", "chinese")) else "en"
