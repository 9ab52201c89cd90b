import shutil
import subprocess

import pytest

from imgbench.latex import HEADER, escaped, table

NASTY = ["a_b & 100 % #1 {x} $y$ ~^\\", "[2pt] *", "<b>|'`\"--", "\x00line\nbreak\u2028", "half \udce9"]


def test_characters_of_latex_are_escaped():
    assert escaped(NASTY[0]) == (r"a\_b \& 100 \% \#1 \{x\} \$y\$ \textasciitilde{}\textasciicircum{}\textbackslash{}")
    assert escaped(NASTY[1]) == "{[}2pt{]} {*}"
    assert escaped(NASTY[3]) == " line break "
    assert escaped("猫 ± −") == r"猫 \ensuremath{\pm} \ensuremath{-}"  # noqa: RUF001
    assert escaped(NASTY[4]) == "half ?"


def test_cells_of_several_lines_stand_below_each_other():
    text = table(("name", "acc"), [(["long", "name"], ["97.5"])], "A caption", "tab:x")
    assert "long & 97.5 \\\\*\nname &  \\\\\n" in text
    assert r"\caption{A caption}" in text and r"\label{tab:x}" in text


def test_names_of_columns_stand_in_lines_that_end_together():
    text = table(("name", "balanced accuracy, %"), [(["a"], ["1"])], "", "tab:x")
    assert " & balanced \\\\\nname & accuracy, \\% \\\\\n" in text


def test_a_number_below_zero_has_a_minus_and_a_name_its_hyphen():
    text = table(("name", "interval"), [(["-1"], ["-0.5 to +1.4"])], "", "tab:x")
    assert r"-1 & \ensuremath{-}0.5 to +1.4 \\" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX is installed")
def test_a_table_compiles(tmp_path):
    rows = [([name], [name, name]) for name in NASTY]
    document = [r"\documentclass{article}\usepackage{booktabs}\begin{document}", HEADER]
    document += [table((NASTY[0], NASTY[2]), rows, NASTY[0], "tab:x"), r"Table~\ref{tab:x}.\end{document}"]
    (tmp_path / "a.tex").write_text("\n".join(document), "utf-8")
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
