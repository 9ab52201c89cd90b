import datetime
import json

import pytest

from imgbench.data.spreadsheet import read_spreadsheet
from imgbench.errors import UserError

TABLE = {"文件名": ["一号.jpg", "二号.jpg"], "类别": ["健康", "生病"]}
ACCENTS = {"file": ["a.jpg", "b.jpg", "c.jpg"], "classe": ["chêne", "érable", "hêtre"]}


def text_of(columns, delimiter=","):
    rows = [[*columns], *zip(*columns.values(), strict=True)]
    return "".join(delimiter.join(row) + "\r\n" for row in rows)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_texts_are_read_whatever_their_encoding_and_what_separates_columns(tmp_path, encoding, delimiter):
    path = tmp_path / "labels.csv"
    path.write_bytes(text_of(TABLE, delimiter).encode(encoding))
    assert read_spreadsheet(path).columns == TABLE


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8"])
def test_letters_with_accents_are_not_taken_for_chinese(tmp_path, encoding):
    path = tmp_path / "labels.csv"
    path.write_bytes(text_of(ACCENTS, ";").encode(encoding))
    found = read_spreadsheet(path)
    assert found.columns == ACCENTS
    assert ("Latin-1" in found.form) == (encoding != "utf-8")


def test_what_was_guessed_of_a_text_is_said(tmp_path):
    (tmp_path / "labels.csv").write_bytes(text_of(TABLE, ";").encode("gb18030"))
    assert read_spreadsheet(tmp_path / "labels.csv").form == "GB18030, semicolons"


TEXTS = {
    "decimal commas": ("a;size;b\n1;1,5;x\n2;2,5;y\n", {"a": ["1", "2"], "size": ["1,5", "2,5"], "b": ["x", "y"]}),
    "quotes": ('file,class\na,"x, y"\nb,"z ""q"""\n', {"file": ["a", "b"], "class": ["x, y", 'z "q"']}),
    "separator stated": ("sep=;\nfile;class\na;x\n", {"file": ["a"], "class": ["x"]}),
    "a title": ("Survey of 2022,,\nfile,class\na,x\n", {"file": ["a"], "class": ["x"]}),
    "blanks": ("file , class\n a ,x \n\n,,\nb,\n", {"file": ["a", "b"], "class": ["x", ""]}),
    "equal names": ("file,class,class\na,x,y\n", {"file": ["a"], "class": ["x"], "class (2)": ["y"]}),
    "no name": (",file,class\n0,a,x\n", {"column 1": ["0"], "file": ["a"], "class": ["x"]}),
    "an empty column": (",file,class,\n,a,x,\n", {"file": ["a"], "class": ["x"]}),
    "blanks between columns": ("file  class\na    x\nb    y\n", {"file": ["a", "b"], "class": ["x", "y"]}),
    "blanks in each name": ("my x/a 1.png,x\nmy x/b 1.png,y\n", {"my x/a 1.png": ["my x/b 1.png"], "x": ["y"]}),
    "a guarded formula": ("file,class\n'=a,x\n", {"file": ["=a"], "class": ["x"]}),
}  # fmt: skip


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_as_programs_write_them(tmp_path, kind):
    text, columns = TEXTS[kind]
    (tmp_path / "labels.csv").write_text(text)
    assert read_spreadsheet(tmp_path / "labels.csv").columns == columns


def test_excel_gives_what_is_seen_in_its_cells(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    day = datetime.datetime(2024, 5, 1)
    for row in (["file", "class", "day", "share"], [1, "x", day, 0.5], [2.0, None, day, True]):
        book.active.append(row)
    book.save(tmp_path / "labels.xlsx")
    assert read_spreadsheet(tmp_path / "labels.xlsx").columns == {
        "file": ["1", "2"], "class": ["x", ""], "day": ["2024-05-01"] * 2, "share": ["0.5", "True"],
    }  # fmt: skip


def test_parquet_and_json_lines_are_read_without_what_is_no_single_value(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"file": ["a", "b"], "class": ["x", None], "image": [{"bytes": b"1"}] * 2, "age": [3.0, None]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "labels.parquet")
    expected = {"file": ["a", "b"], "class": ["x", ""], "age": ["3", ""]}
    assert read_spreadsheet(tmp_path / "labels.parquet").columns == expected
    lines = [{"file": "a", "class": "x", "age": 3}, {"file": "b"}]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read_spreadsheet(tmp_path / "labels.jsonl").columns == expected


WRONG = {
    "labels.xls": (b"\xd0\xcf\x11\xe0", "no table that imgbench reads"),
    "labels.xlsx": (b"no zip", "cannot be read as a table"),
    "labels.parquet": (b"PAR1", "cannot be read as a table"),
    "labels.jsonl": (b"{", "cannot be read as a table"),
    "list.jsonl": (b"[1]", "a line is no object"),
    "empty.csv": (b"", "no rows below"),
    "header.csv": (b"file,class\n", "no rows below"),
    "ragged.csv": (b"file,class\na,x\nb,y,z\n", "line 3 has 3 cells, and there are 2 columns"),
    "zeros.csv": ("file,class\na,x\n".encode("utf-16-le"), "it holds zeros"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_table_is_an_error_that_names_file_and_reason(tmp_path, name):
    content, reason = WRONG[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=reason) as error:
        read_spreadsheet(tmp_path / name)
    assert name in str(error.value)
