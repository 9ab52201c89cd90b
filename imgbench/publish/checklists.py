"""Checklists of reviewers, filled as far as a run has recorded what they ask for.

Each is a YAML file of items: the number, in our own words what is asked, the facts of `paper_facts` that answer it, and
what of it is left to the author. The items' texts are not copied.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from imgbench.cells import guarded
from imgbench.publish.card import markdown
from imgbench.publish.recorded import CITE, ENDCITE, Fact

FOLDER = Path(__file__).parent / "templates" / "checklists"
NAMES = ("claim-2024", "tripod-ai", "reforms")
AUTHOR = "author"


@dataclass(frozen=True)
class Item:
    number: str
    asks: str
    facts: Sequence[str]
    rest: str  # what the author has to add in any case

    def answer(self, facts: Mapping[str, Fact]) -> str:
        """`reported: value (file)`, `not met: why`, or `author`."""
        known = [facts[name] for name in self.facts if name in facts]
        unmet = [fact for fact in known if not fact.met]
        if not known:
            return AUTHOR
        rest = f" {AUTHOR}: {self.rest}" if self.rest else ""
        if not unmet:
            return f"reported: {_said(known)}{rest}"
        others = [fact for fact in known if fact.met]
        return f"not met: {_said(unmet)}{f' Recorded: {_said(others)}' if others else ''}{rest}"


def _said(facts: Sequence[Fact]) -> str:
    return " ".join(f"{_without_citations(fact.text)} ({fact.file})" for fact in facts)


@dataclass(frozen=True)
class Checklist:
    title: str
    source: str
    checked: str  # against what its items were compared
    items: Sequence[Item]


@cache
def checklist(name: str) -> Checklist:
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    items = [Item(str(number), asks, tuple(facts), rest) for number, asks, facts, rest in content.pop("items")]
    return Checklist(items=items, **content)


def as_markdown(name: str, facts: Mapping[str, Fact], title: str) -> str:
    one = checklist(name)
    lines = [
        f"# {one.title}: {markdown(title)}",
        "",
        f"Paraphrased from: {one.source}",
        "",
        one.checked,
        "",
        "*reported*: recorded in the named file of the run. *not met*: recorded, and not as it should be. *author*: "
        "for the author to answer. An item that does not apply to the study is for the author to say.",
        "",
        "| item | what it asks for | answer |",
        "|---|---|---|",
        *(f"| {item.number} | {item.asks} | {markdown(item.answer(facts))} |" for item in one.items),
    ]
    return "\n".join(lines) + "\n"


def as_csv(name: str, facts: Mapping[str, Fact]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["item", "asks", "answer"])
    for item in checklist(name).items:
        writer.writerow([item.number, item.asks, guarded(item.answer(facts))])
    return file.getvalue()


def _without_citations(text: str) -> str:
    return re.sub(f"{CITE}.*?{ENDCITE}", "", text)
