from pathlib import Path

import pytest

from imgbench.data.columns import FileNames, file_column, find_columns
from imgbench.data.spreadsheet import Spreadsheet
from imgbench.errors import UserError

N = 40
NAMES = [f"IMG_{number:03}" for number in range(N)]
FILES = FileNames("/photos", [f"images/{name}.jpg" for name in NAMES])
CLASSES = [("rust", "healthy")[number % 2] for number in range(N)]
FINER = [("rust", "rust", "leaf", "stem")[number % 4] for number in range(N)]


def table(**columns):
    return Spreadsheet(Path("labels.csv"), columns)


def every(*values, times=1):
    return [values[number // times % len(values)] for number in range(N)]


def numbers(start=0):
    return [str(number) for number in range(start, start + N)]


@pytest.mark.parametrize(
    "cells",
    [
        [f"{name}.jpg" for name in NAMES],
        NAMES,
        [f"img_{number:03}.JPG" for number in range(N)],
        [f"images\\{name}.jpg" for name in NAMES],
        [f"C:\\Users\\me\\data\\{name}.jpg" for name in NAMES],
        [f"/home/me/photos/images/{name}.png" for name in NAMES],
        numbers(),
    ],
)
def test_the_column_of_the_files_is_found_by_what_it_holds(cells):
    found = file_column(table(age=every("33", "21"), which=cells, label=CLASSES), FILES)
    assert found is not None and found[0] == "which"
    assert FILES.find(cells[7], found[1]) == [7]


def test_ages_are_no_files():
    assert file_column(table(age=every(*map(str, range(20, 40))), label=CLASSES), FILES) is None


def test_two_columns_that_name_other_files_equally_well_are_an_error_naming_both():
    with pytest.raises(UserError, match=r"'first', 'second' could all name the files.*data.columns.file=first"):
        file_column(table(first=NAMES, second=NAMES[::-1]), FILES)


def test_a_name_in_two_folders_is_told_by_its_folder():
    files = FileNames("/photos", ["train/1.jpg", "test/1.jpg", "test/2.jpg"])
    assert (files.find("test/1.jpg"), files.find("1"), files.find("2")) == ([1], [0, 1], [2])
    assert (files.agreement("train/1.jpg", 0), files.agreement("val/1.jpg", 0)) == (1, 0)


def roles(**columns):
    found = find_columns(table(file=NAMES, **columns), "file", {})
    return {role: name for role, name in found.items() if name is not None and role != "file"}


FOUND = {
    "its name": ({"site": every("a", "b"), "diagnosis": CLASSES}, {"class": "diagnosis"}),
    "its name in Chinese": ({"性别": every("男", "女"), "类别": CLASSES}, {"class": "类别"}),
    "what it holds": (
        {"id": numbers(), "state": CLASSES, "taken": every("2024-01-02", "2024-03-04")},
        {"class": "state", "date": "taken"},
    ),
    "circumstances": (
        {"sex": every("m", "f", times=2), "age": every("20", "30", "40"), "state": CLASSES},
        {"class": "state"},
    ),
    "number and name": ({"class_id": every("0", "1"), "class_name": CLASSES}, {"class": "class_name"}),
    "a grade": ({"level": every("0", "1", "2")}, {"class": "level"}),
    "measures": ({"weight": [f"{number}.5" for number in numbers()], "state": CLASSES}, {"class": "state"}),
    "remarks": ({"remark": every("x" * 80, "y" * 80), "state": CLASSES}, {"class": "state"}),
    "patients": ({"label": CLASSES, "patient_id": every(*"abcdefghijklm")}, {"class": "label", "group": "patient_id"}),
    "patients and examinations": (
        {"label": CLASSES, "study": every(*numbers()[:20]), "patient": every(*"abcdefghij")},
        {"class": "label", "group": "patient"},
    ),
    "patients in Chinese": ({"类别": CLASSES, "患者": every(*"abcdefghijk")}, {"class": "类别", "group": "患者"}),
    "a patient each": ({"label": CLASSES, "patient": NAMES}, {"class": "label"}),
    "kinds of plants": ({"plant": CLASSES, "finding": FINER}, {"class": "finding"}),
    "splits": (
        {"Usage": every("Training", "PublicTest", "PrivateTest"), "y": CLASSES},
        {"class": "y", "split": "Usage"},
    ),
    "splits in Chinese": ({"用途": every("训练集", "测试集"), "标签": CLASSES}, {"class": "标签", "split": "用途"}),
    "training or not": (
        {"is_train": every("1", "1", "0"), "species": CLASSES},
        {"class": "species", "split": "is_train"},
    ),
    "one hot": (
        {
            "MEL": every("1.0", "0.0", "0.0"),
            "NV": every("0.0", "1.0", "0.0"),
            "BCC": every("0.0", "0.0", "1.0"),
            "UNK": ["0.0"] * N,
        },
        {"class": ["MEL", "NV", "BCC"]},
    ),
    "dates": ({"when": every("1.5.2024", "2.5.2024"), "label": CLASSES}, {"class": "label", "date": "when"}),
}


@pytest.mark.parametrize("kind", FOUND)
def test_columns_are_found_by(kind):
    columns, expected = FOUND[kind]
    assert roles(**columns) == expected


SEVERAL = {
    "equal names": {"label": CLASSES, "category": FINER},
    "no names": {"state": CLASSES, "part": FINER},
    "shares and kinds": {"share": every("0.0", "0.33", "0.67"), "kind": CLASSES},
    "circumstances alone": {"sex": CLASSES, "side": FINER},
    "labels of several at once": {
        "cough": every("1", "0", "1"),
        "fever": every("1", "1", "0"),
        "pain": every("0", "1", "1"),
    },
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_that_could_be_the_class_are_an_error_naming_them_and_the_option(kind):
    first, second, *_ = SEVERAL[kind]
    with pytest.raises(UserError, match=f"'{first}', '{second}'.*could all be the class.*data.columns.class={first}"):
        roles(**SEVERAL[kind])


def test_no_class_among_names_numbers_and_dates_is_an_error_naming_the_columns():
    with pytest.raises(UserError, match=r"no column could be the class of the images.*number, taken, remark"):
        roles(number=numbers(), taken=every("2024-01-02", "2024-03-04"), remark=[f"leaf {name}" for name in NAMES])


def test_five_thousand_classes_of_few_images_are_classes():
    names = [f"{number}.jpg" for number in range(12_500)]
    columns = {"file": names, "label": [f"species {number % 5000}" for number in range(12_500)]}
    assert find_columns(table(**columns), "file", {})["class"] == "label"
