"""The texts of the report: complete in every language, and none too many."""

import re
from pathlib import Path
from string import Formatter

import pytest

import imgbench
from imgbench.language import LANGUAGES, language_of_locale
from imgbench.report.catalogue import Texts, entries

PACKAGE = Path(imgbench.__file__).parent
SOURCES = "\n".join(
    path.read_text("utf-8")
    for folder in ("evaluation", "experiment", "report", "publish", "sweep")
    for kind in ("*.py", "templates/*.jinja", "static/*")
    for path in sorted((PACKAGE / folder).glob(kind))
)
KINDS = set(re.findall(r'Finding\(\s*f?"([^"]+)"', (inspection := "\n".join(
    path.read_text("utf-8") for path in (PACKAGE / "inspection").glob("*.py")
))))  # fmt: skip
STRAY = set(re.findall(r'": \("(\w+)", "(?:note|warning)"', inspection))


def texts_of(entry, language):
    return entry[language] if isinstance(entry[language], list) else [entry[language]]


def fields(text):
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def fault_of(entry):
    """What is wrong with the texts of an entry, if anything."""
    if set(entry) != set(LANGUAGES):
        return "not in every language"
    if not all(isinstance(text, str) and text.strip() for language in LANGUAGES for text in texts_of(entry, language)):
        return "empty"
    if not re.search(r"[\u4e00-\u9fff]", "".join(texts_of(entry, "zh"))):
        return "not translated"
    return "Chinese in English" if re.search(r"[\u4e00-\u9fff]", "".join(texts_of(entry, "en"))) else None


def test_every_text_is_there_in_every_language():
    faults = {key: fault_of(entry) for key, entry in entries().items()}
    assert {key: fault for key, fault in faults.items() if fault} == {}


def values_agree(key, entry):
    english = set.union(*map(fields, texts_of(entry, "en")))
    chinese = set.union(*map(fields, texts_of(entry, "zh")))
    if key.startswith("found_"):  # which have a sentence of their own in English
        return english == {"message"} and chinese <= {"n"}
    return chinese == english or (isinstance(entry["en"], list) and chinese | {"n"} == english | {"n"})


def test_a_translation_needs_no_value_that_the_other_has_not():
    assert [key for key, entry in entries().items() if not values_agree(key, entry)] == []


def test_every_text_is_used():
    made = ("found_", "cue_", "fact_", "verdict_", "weights_", "small_")  # names that are put together
    used = set(re.findall(r"""["'](\w+)["']""", SOURCES))
    assert [key for key in entries() if key not in used and not key.startswith(made)] == []


def test_every_text_that_is_asked_for_is_there():
    asked = re.findall(r"""\b(?:t|texts)\(\s*["'](\w+)["']""", SOURCES)
    assert len(asked) > 50
    assert [key for key in asked if key not in entries() and not key.endswith("_")] == []  # which are put together


def test_every_kind_of_finding_of_the_audit_has_a_sentence():
    expected = {kind.replace("{kind}", word) for kind in KINDS | STRAY for word in ("exact", "near")}
    expected = {kind.replace("{split}", word) for kind in expected for word in ("test", "val")}
    found = {kind for kind in expected if "{" not in kind} | {"left_out"}
    assert len(found) > 20
    assert [kind for kind in sorted(found) if f"found_{kind}" not in entries()] == []


def test_what_depends_on_a_number_is_said_of_one_and_of_several():
    assert Texts("en")("mistakes_caption", n=1) == "It is wrong on 1 test photograph."
    assert Texts("en")("mistakes_caption", n=1234).startswith("It is wrong on 1,234 test photographs")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_GB.UTF-8", "LANGUAGE": "zh_CN:en"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LC_MESSAGES": "zh_CN.UTF-8", "LANG": "C"}, "zh"),
    ],
)
def test_the_locale_chooses_the_language(monkeypatch, environment, expected):
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert language_of_locale() == expected


def test_without_a_word_in_the_environment_the_system_is_asked(monkeypatch):
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, expected in {"Chinese (Simplified)_China": "zh", "en_US": "en", None: "en"}.items():
        monkeypatch.setattr("locale.getlocale", lambda name=name: (name, "UTF-8"))
        assert language_of_locale() == expected
