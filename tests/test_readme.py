"""The README and its pages: short, whole, and true of the package."""

import re
from pathlib import Path

import pytest

from imgbench.__main__ import COMMANDS
from imgbench.run import CONF

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]


def choices_in(text: str) -> set[tuple[str, str]]:
    """The `group=choice,choice` words of all command lines in the text, as (group, choice)."""
    groups = "|".join(path.name for path in CONF.iterdir() if path.is_dir())
    lines = re.findall(r"imgbench[. ](?:train|summary|benchmark|compress) .*", text)
    words = re.findall(rf"(?<![\w.])({groups})=([\w,]+)", "\n".join(lines))
    return {(group, choice) for group, choices in words for choice in choices.split(",")}


def test_readme_is_read_in_ten_minutes():
    assert len(re.sub(r"```.*?```", "", README, flags=re.DOTALL).split()) < 1300


def test_readme_opens_with_the_two_notebooks():
    assert "](notebooks/快速上手.ipynb)" in README.split("\n\n")[1]
    assert "](notebooks/quickstart.ipynb)" in README.split("\n\n")[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_exists(page):
    text = page.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:", link)]
    missing = [link for link in links if not (page.parent / link.partition("#")[0]).exists()]
    assert missing == []


def test_every_page_is_linked_from_the_readme():
    assert [page.name for page in PAGES[1:] if f"](notebooks/{page.name})" not in README] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_of_the_project_that_is_named_exists(page):
    paths = re.findall(r"`((?:imgbench|conf|notebooks)/[\w./]+)`", page.read_text("utf-8"))
    assert [path for path in paths if Path(path).stem != "x" and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_shows_every_command(command):
    assert re.search(rf"(python -m imgbench\.|imgbench ){command}\b", README)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_exists(page):
    assert set(re.findall(r"python -m imgbench\.(\w+)", page.read_text("utf-8"))) <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_choice_in_a_command_line_exists(page):
    choices = choices_in(page.read_text("utf-8"))
    assert {choice for choice in choices if not (CONF / choice[0] / f"{choice[1]}.yaml").exists()} == set()


def test_choices_page_lists_every_choice():
    page = (ROOT / "notebooks" / "choices.md").read_text("utf-8")
    for group in ("data", "model", "head", "augment", "objective", "optimizer", "scheduler", "callbacks", "logger"):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{group}`"))
        assert [file.stem for file in (CONF / group).glob("*.yaml") if f"`{file.stem}`" not in row] == []


def test_readme_shows_the_script_for_prediction_without_torch_as_it_is():
    assert (ROOT / "notebooks" / "predict_without_torch.py").read_text("utf-8") in README
