"""The texts of a page in every language that it is written in."""

import locale
import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml

LANGUAGES = ("en", "zh")
FILE = Path(__file__).parent / "templates" / "report.yaml"


@cache
def entries() -> dict[str, dict[str, Any]]:
    """key -> language -> a text, or [the text for one, the text for several]."""
    return yaml.safe_load(FILE.read_text("utf-8"))


class Texts:
    """`texts("answer", n=225)` is the text of that name in a language, with the values in their places."""

    def __init__(self, language: str) -> None:
        self.language = language

    def __call__(self, key: str, **values: Any) -> str:
        text = entries()[key][self.language]
        if isinstance(text, list):
            text = text[0] if values["n"] == 1 else text[1]
        return text.format(**values)

    def has(self, key: str) -> bool:
        return key in entries()


def language_of_locale() -> str:
    """The language of whoever sits here, as far as pages are written in it; else English."""
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):  # in the order in which gettext asks them
        if value := os.environ.get(name):
            return _known(value)
    return _known(locale.getlocale()[0] or "")  # such as `Chinese (Simplified)_China` of Windows


def _known(name: str) -> str:
    return "zh" if name.lower().startswith(("zh", "chinese")) else "en"
