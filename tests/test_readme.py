"""The README and its pages: short, whole, and true of the package."""

import re
from pathlib import Path

import pytest

from imgbench.__main__ import COMMANDS
from imgbench.run import CONF

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
CHINESE = (ROOT / "notebooks" / "说明.md").read_text("utf-8")
NOTEBOOKS = [file for ending in ("md", "ipynb") for file in sorted((ROOT / "notebooks").glob(f"*.{ending}"))]
PAGES = [ROOT / "README.md", *NOTEBOOKS, *sorted((ROOT / ".github").glob("*.md"))]
SCRIPT = ROOT / "notebooks" / "predict_without_torch.py"


def page(name: str) -> str:
    return (ROOT / "notebooks" / name).read_text("utf-8")


def prose(text: str) -> list[str]:
    """The words of a page without code, with its tables."""
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL).split()


def blocks(text: str) -> list[str]:
    """The code of a page."""
    return re.findall(r"```.*?```", text, re.DOTALL)


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def choices_in(text: str) -> set[tuple[str, str]]:
    """The `group=choice,choice` words of all command lines in the text, as (group, choice)."""
    groups = "|".join(path.name for path in CONF.iterdir() if path.is_dir())
    lines = re.findall(r"imgbench[. ](?:train|summary|benchmark|compress) .*", text)
    words = re.findall(rf"(?<![\w.])({groups})=([\w,]+)", "\n".join(lines))
    return {(group, choice) for group, choices in words for choice in choices.split(",")}


def test_readme_has_at_most_700_words_of_prose():
    assert len(prose(README)) <= 700


def test_readme_leads_from_its_first_line_to_the_chinese_page_and_shows_the_report():
    assert "](notebooks/说明.md)" in README.splitlines()[0]
    assert "](../README.md)" in CHINESE.split("\n\n")[1]
    assert README.split("\n\n")[2].startswith("![")
    assert (ROOT / "notebooks" / "report.png").stat().st_size < 200_000


def test_both_readmes_give_the_same_commands_and_numbers():
    def facts(text: str) -> list[list[str]]:
        commands = re.findall(r"^(?:pip|imgbench) [^#\n]*[^#\s]", "\n".join(blocks(text)), re.MULTILINE)
        return [commands, re.findall(r"(\d\.\d{3}).(?: )?(\d+)", text), re.findall(r"\d,\d{3}", text)]

    assert facts(README) == facts(CHINESE)
    assert all(facts(README))


@pytest.mark.parametrize("line", ["pip install -e . && python -m imgbench.train", 'pip install -e ".[dev]" && pytest'])
def test_readme_has_both_commands_of_the_set_up(line):
    assert f"```bash\n{line}\n```" in README


def test_every_accuracy_of_the_readme_stands_in_the_results():
    beside = page("results.md").partition("## Beside others")[2]
    rows = [line for line in README.splitlines() if line.startswith("|")]
    found = [re.findall(r"(\d\.\d{3}), (\d+) s", row) for row in rows]
    assert [accuracy for row in found for accuracy, _ in row if accuracy not in beside] == []
    assert [seconds for row in found for _, seconds in row if not re.search(rf"\| {seconds}\b", beside)] == []
    assert sum(map(len, found)) == 9


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_relative_link_leads_to_a_file_and_a_heading_of_it(path):
    text = path.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s\\]+)\)", text) if not re.match(r"\w+:", link)]
    for link in links:
        name, _, heading = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not heading or heading in anchors(target.read_text("utf-8")), link


def test_every_page_is_linked_from_the_readme():
    assert [path.name for path in PAGES[1:] if f"/{path.name})" not in README] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_path_of_the_project_that_is_named_exists(path):
    paths = re.findall(r"`((?:imgbench|conf|notebooks|tests)/[\w./]+)`", path.read_text("utf-8"))
    assert [name for name in paths if Path(name).stem != "x" and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_page_of_the_commands_shows_every_one(command):
    assert re.search(rf"^imgbench {command}\b", page("commands.md"), re.MULTILINE)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_shown_exists(path):
    assert set(re.findall(r"python -m imgbench\.(\w+)", path.read_text("utf-8"))) <= set(COMMANDS)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_choice_in_a_command_line_exists(path):
    choices = choices_in(path.read_text("utf-8"))
    assert {choice for choice in choices if not (CONF / choice[0] / f"{choice[1]}.yaml").exists()} == set()


def test_choices_page_lists_every_choice():
    for group in ("data", "model", "head", "augment", "objective", "optimizer", "scheduler", "callbacks", "logger"):
        row = next(line for line in page("choices.md").splitlines() if line.startswith(f"| `{group}`"))
        assert [file.stem for file in (CONF / group).glob("*.yaml") if f"`{file.stem}`" not in row] == []


def test_page_on_deployment_shows_the_script_as_it_is():
    assert SCRIPT.read_text("utf-8") in page("deployment.md")


@pytest.mark.parametrize("path", [path for path in PAGES if path.suffix == ".md"], ids=lambda path: path.name)
def test_pages_speak_the_words_of_the_field(path):
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
    assert re.findall(r"\brelatives\b|without the subject|[.:;] (?:[Oo]f|[Bb]y) which|[Ff]or want of", text) == []
