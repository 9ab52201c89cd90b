"""Reviewers' checklists: their items, and what a run answers of them."""

import csv
import shutil
from pathlib import Path

import pytest

from imgbench.publish.checklists import AUTHOR, NAMES, as_csv, as_markdown, checklist
from imgbench.publish.paper_facts import MAKERS, facts_of
from imgbench.publish.recorded import Fact, Record
from imgbench.run import Run

OLD = Path(__file__).parent / "old_run"
# Of the published lists: how many items, and how many that begin with the same number.
SIZES = {"claim-2024": (44, 44), "tripod-ai": (52, 27), "reforms": (32, 8)}


@pytest.mark.parametrize("name", NAMES)
def test_a_list_has_its_items_in_order_and_asks_for_facts_that_there_are(name):
    items = checklist(name).items
    numbers = [int(item.number.rstrip("abcdefg")) for item in items]
    assert (len(items), len(set(numbers))) == SIZES[name]
    assert numbers == sorted(numbers)
    assert len({item.number for item in items}) == len(items)
    assert {fact for item in items for fact in item.facts} <= MAKERS.keys()


def test_an_item_is_reported_not_met_or_the_authors():
    facts = {"seed": Fact("Seed 1.", "run.json"), "disjoint": Fact("They share files.", "split.csv", met=False)}
    answers = {item.number: item.answer(facts) for item in checklist("claim-2024").items}
    assert answers["1"] == AUTHOR
    assert answers["19"] == "reported: Seed 1. (run.json)"
    assert answers["20"] == "not met: They share files. (split.csv)"


def test_a_run_selected_on_test_images_does_not_meet_what_asks_for_independence(tmp_path):
    run = Run(shutil.copytree(OLD / "run", tmp_path / "run"))
    run.note(selected_on_test=True)
    facts = facts_of(Record(run))
    for name, numbers in (("claim-2024", "26 32 37 38"), ("tripod-ai", "12a 12c 23a"), ("reforms", "5d 6a 7b")):
        answers = {
            row["item"]: row["answer"]
            for row in csv.DictReader(
                as_csv(
                    name,
                    facts,
                ).splitlines()
            )
        }
        for number in numbers.split():
            assert answers[number].startswith("not met: "), (name, number)
            assert "selected on its own test images" in answers[number]
    assert "test_apart" not in facts


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_what_it_paraphrases_and_against_what_it_was_checked(name):
    text = as_markdown(name, {}, "a_b on 猫|狗")
    assert "doi:10." in text
    assert "official list before you submit" in text or "paper before you submit" in text
    assert r"a\_b on 猫\|狗" in text
    assert text.count(f"| {AUTHOR} |") == len(checklist(name).items)
