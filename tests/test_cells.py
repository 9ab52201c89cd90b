from pathlib import Path

import pytest

from imgbench.cells import guarded, markdown, unguarded, visible

FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-1/a.png", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "''=1"]  # noqa: RUF001


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_a_spreadsheet_takes_for_a_formula_is_written_as_text_and_reads_back(text):
    assert str(guarded(text)).startswith("'")
    assert guarded(text) != text
    assert unguarded(str(guarded(text))) == text


@pytest.mark.parametrize("text", ["", "cat/0.png", "a=b", "'quoted'", "'", "1e-05", "健康"])
def test_other_texts_are_written_as_they_are(text):
    assert guarded(text) == text == unguarded(text)


def test_numbers_stay_numbers():
    assert [guarded(-1), guarded(-0.5), guarded(None)] == [-1, -0.5, None]


def test_whatever_writes_csv_guards_its_cells():
    package = Path(__file__).parents[1] / "imgbench"
    sources = {path.name: path.read_text("utf-8") for path in package.rglob("*.py") if "hostile" not in path.parts}
    writers = {name for name, source in sources.items() if "csv.writer(" in source}
    assert writers == {"split_file.py", "predictions.py", "journal.py", "comparison_tables.py", "checklists.py"}
    assert all("guarded" in sources[name] for name in writers)


def test_what_a_terminal_would_obey_is_written_out():
    assert visible("a\x1b]0;title\x07b\u202egpj.exe\r") == r"a\x1b]0;title\x07b\u202egpj.exe\r"
    assert visible("photo\udcff.jpg") == r"photo\udcff.jpg"
    assert visible("一只猫 ñ\t1\n2") == "一只猫 ñ\t1\n2"


def test_markdown_has_no_signs_of_markdown_html_or_direction():
    assert markdown("[x](javascript:y) <img src=x> **b** `c` $d$ | e") == (
        r"\[x\](javascript:y) &lt;img src=x&gt; \*\*b\*\* \`c\` \$d\$ \| e"
    )
    assert markdown("a\n# title\u202e") == r"a \# title\\u202e"
