"""The texts of a page in every language that it is written in."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

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
