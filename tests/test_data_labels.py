"""Labels from a table, as `imgbench.data.labels` reads them, and which table that is: `imgbench.data.label_files`."""

import csv

import numpy as np
import pytest
from PIL import Image

from imgbench.data.label_files import is_own
from imgbench.data.labels import further_columns
from imgbench.data.shard_index import check_root, find_images
from imgbench.data.split import NO_SPLIT, TEST, TRAIN, VAL
from imgbench.data.walk import LeftOut
from imgbench.errors import UserError


def write(path, rows, encoding="utf-8", delimiter=","):
    """A table whose first row names the columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


@pytest.fixture
def photos(tmp_path, make_folder):
    """12 images in `photos/images`, and a function that writes a table beside them."""
    root = make_folder(tmp_path / "photos", {"images": 12})

    def labelled(*rows, name="labels.csv", header=("file", "class"), **options):
        rows = rows or [(f"{number}.png", "cat" if number % 2 else "dog") for number in range(12)]
        write(root / name, [header, *rows], **options)
        return root

    return labelled


def rows(*columns):
    """Names of the 12 images, and further columns, of which shorter ones are repeated."""
    return [(f"{number}.png", *(column[number % len(column)] for column in columns)) for number in range(12)]


def test_a_table_gives_what_folders_would(photos):
    found = find_images(photos())
    assert found.class_names == ["cat", "dog"]
    assert found.paths == [f"images/{number}.png" for number in (*range(1, 12, 2), *range(0, 12, 2))]
    assert found.labels.tolist() == [0] * 6 + [1] * 6
    assert found.given.tolist() == [NO_SPLIT] * 12
    assert found.passed_over == {} and found.groups == []
    assert found.stamps[0, 0] == (found.root / found.paths[0]).stat().st_size


@pytest.mark.parametrize("place", ["photos/labels.csv", "photos/images/labels.csv", "labels.csv"])
@pytest.mark.parametrize("root", ["photos", "photos/images"])
def test_a_table_in_the_folder_or_beside_it_is_found_by_itself_and_said_in_a_line(photos, tmp_path, place, root):
    (photos() / "labels.csv").rename(tmp_path / place)
    if (place, root) in (("photos/images/labels.csv", "photos"), ("labels.csv", "photos/images")):
        with pytest.raises(UserError, match=r"class folders?,"):
            find_images(tmp_path / root)
        return
    check_root(tmp_path / root)
    (note,) = find_images(tmp_path / root).notes
    assert note.startswith(
        f"Labels from {tmp_path / place}: file 'file' (12 images), class 'class' (2), no group and no "
    )


def test_a_table_for_each_split_is_one_table(photos, tmp_path):
    folder = r"C:\My data\images"
    parts = {"my_training": range(6), "my_validation": range(6, 9), "my_test": range(9, 12)}
    for name, numbers in parts.items():  # without names of columns, and with a place on another machine
        named = [(rf"{folder}\{number}.png", "cat" if number % 2 else "dog") for number in numbers]
        photos(*named[1:], name=f"{name}.csv", header=named[0])
    root = tmp_path / "photos"
    (root / "my_remarks.csv").write_text("number,remark\n1,good\n")
    found = find_images(root)
    given = dict(zip(found.paths, found.given.tolist(), strict=True))
    assert given == {f"images/{n}.png": TRAIN if n < 6 else VAL if n < 9 else TEST for n in range(12)}
    assert found.notes[0].startswith(f"Labels from {root / 'my_training.csv'} (with my_test.csv and my_validation.csv)")
    assert found.passed_over[LeftOut.OTHER] == ["my_remarks.csv"]
    assert find_images(root, labels="my_training.csv").paths == found.paths
    assert len(find_images(root, "--data", labels=str(root / "my_training.csv")).paths) == 6


def test_a_table_without_classes_is_no_part_of_that_of_the_training_images(photos):
    photos(*rows(("cat", "dog"))[:9], name="train.csv")
    root = photos(*[(name,) for name, _ in rows("x")[9:]], name="test.csv", header=("file",))
    found = find_images(root)
    assert len(found.paths) == 9 and set(found.given.tolist()) == {NO_SPLIT}


def test_class_folders_are_what_counts_where_there_are_some(photos, make_folder, tmp_path):
    make_folder(tmp_path / "photos", {"bird": 2})
    found = find_images(photos(*[(f"images/{name}", label) for name, label in rows(("cat", "dog"))]))
    assert found.class_names == ["bird", "images"]
    assert f"{tmp_path}/photos/labels.csv is not read" in found.notes[0]
    assert find_images(tmp_path / "photos", labels="labels.csv").class_names == ["cat", "dog"]
    with pytest.raises(UserError, match=r"0 class folders?,"):
        find_images(tmp_path / "photos/images", labels=None)


def test_folders_that_are_parts_of_a_collection_are_no_classes_beside_a_table(tmp_path, make_folder):
    root = make_folder(tmp_path, {"images_part_1": 6, "images_part_2": 6})
    names = [f"images_part_{part}/{number}.png" for part in (1, 2) for number in range(6)]
    write(root / "meta.csv", [("path", "dx"), *zip(names, ["nv", "mel"] * 6, strict=True)])
    assert find_images(root).class_names == ["mel", "nv"]
    write(root / "meta.csv", [("path", "dx"), *zip(names, ["nv"] * 6 + ["mel"] * 6, strict=True)])
    assert find_images(root).class_names == ["images_part_1", "images_part_2"]  # persons, of whom each is of one sex


@pytest.mark.parametrize("named", ["labels.csv", "photos/labels.csv", "{root}/labels.csv"])
def test_a_table_is_named_from_here_or_from_the_folder(photos, tmp_path, monkeypatch, named):
    root = photos()
    monkeypatch.chdir(tmp_path)
    assert len(find_images(root, labels=named.format(root=root)).paths) == 12
    assert len(find_images(root / "images", labels=named.format(root=root)).paths) == 12


def test_a_table_that_is_not_there_is_an_error_naming_those_that_are(photos):
    root = photos()
    with pytest.raises(UserError, match=f"data.labels=lables.csv: there is no such file.*There are {root}/labels.csv"):
        check_root(root, labels="lables.csv")


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16"])
def test_a_table_that_excel_saved_in_chinese(photos, encoding):
    table = rows("ab", ("猫", "狗"), ("训练集", "训练集", "测试集"), ("张三", "李四", "王五"))
    header = ("文件名", "性别", "类别", "数据集", "患者")
    found = find_images(photos(*table, header=header, encoding=encoding, delimiter=";"))
    assert found.class_names == ["狗", "猫"]
    assert np.unique(found.given).tolist() == [TRAIN, TEST]
    assert sorted(set(found.groups)) == ["张三", "李四", "王五"]
    labels = found.source.labels
    columns = {"file": "文件名", "class": "类别", "group": "患者", "split": "数据集", "date": None}
    assert labels is not None and labels.columns == columns


def test_rows_without_file_and_files_without_row_or_class_are_left_out_and_named(photos):
    found = find_images(
        photos(
            ("0.png", "cat"), ("1.png", "dog"), ("2.png", "cat"), ("3.png", "dog"), ("4.png", "cat"),
            ("5.png", ""), ("6.png", "N/A"), ("7.png", "cat"), ("7.png", "cat"), ("8.png", "cat"), ("8.png", "dog"),
            ("99.png", "cat"),
        )
    )  # fmt: skip
    assert len(found.paths) == 6
    assert found.passed_over == {
        LeftOut.UNLABELLED: ["images/5.png", "images/6.png"],
        LeftOut.CONTRADICTED: ["images/8.png"],
        LeftOut.UNLISTED: ["images/9.png", "images/10.png", "images/11.png"],
        LeftOut.MISSING: ["99.png"],
    }


def test_a_name_that_leads_outside_of_the_root_is_refused(photos, tmp_path):
    root = photos(*rows(("cat", "dog")), ("../secret.png", "cat"))
    with pytest.raises(UserError, match=r"names \.\./secret.png, which lies outside"):
        find_images(root)
    (tmp_path / "secret.png").touch()
    photos(*rows(("cat", "dog")), (f"{tmp_path}/secret.png", "cat"))
    with pytest.raises(UserError, match=r"secret.png, which lies outside.*data.root=DIR"):
        find_images(root)
    photos(*[(f"../photos/images/{name}", label) for name, label in rows(("cat", "dog"))])
    assert len(find_images(root).paths) == 12


def test_a_name_that_may_mean_two_images_is_an_error_unless_a_folder_tells_them_apart(photos, make_folder, tmp_path):
    make_folder(tmp_path / "photos", {"more": 3})
    with pytest.raises(UserError, match=r"'0.png' in column 'file' may mean images/0.png and more/0.png"):
        find_images(photos(), labels="labels.csv")
    found = find_images(photos(*[(f"images/{a}", b) for a, b in rows(("cat", "dog"))]), labels="labels.csv")
    assert len(found.paths) == 12 and len(found.passed_over[LeftOut.UNLISTED]) == 3


def test_what_is_said_of_images_of_another_folder_is_not_taken_for_these(photos):
    """The table is of `images/` and of `others/`, of which only the first is here."""
    named = rows(("cat", "dog"))
    root = photos(*[(f"images/{a}", b) for a, b in named], *[(f"others/{a}", "emu") for a, _ in named])
    found = find_images(root / "images")
    assert found.class_names == ["cat", "dog"] and len(found.paths) == 12
    assert found.passed_over[LeftOut.MISSING][0] == "others/0.png"


def test_a_table_without_names_of_columns(photos):
    root = photos(*rows(("cat", "dog"))[1:], header=("0.png", "cat"))
    assert len(find_images(root).paths) == 12


def test_columns_that_are_named_are_taken(photos):
    root = photos(*rows(("a", "b"), ("x", "y", "z"), ("1", "2", "3", "4")), header=("file", "state", "part", "box"))
    with pytest.raises(UserError, match="'state', 'part' could all be the class"):
        find_images(root)
    found = find_images(root, columns={"class": "Part", "group": "box"})
    assert (found.class_names, sorted(set(found.groups))) == (["x", "y", "z"], ["1", "2", "3", "4"])
    with pytest.raises(UserError, match=r"data.columns.class=parts, but the columns of .* are: file, state, part, box"):
        find_images(root, columns={"class": "parts"})
    with pytest.raises(UserError, match=r"data.columns.split=box: its entries are 1, 2, 3, 4, but expected"):
        find_images(root, columns={"class": "part", "split": "box"})
    with pytest.raises(UserError, match=r"data.columns.file=null, but"):
        find_images(root, columns={"file": None})


def test_columns_of_0_and_1_are_classes_and_no_image_has_two(photos):
    cells = rows("100", "010", "001")
    header = ("file", "MEL", "NV", "BCC")
    assert find_images(photos(*cells, header=header)).class_names == ["BCC", "MEL", "NV"]
    root = photos(*cells, ("0.png", "1", "1", "0"), header=header)
    with pytest.raises(UserError, match="could all be the class"):
        find_images(root)
    with pytest.raises(UserError, match="row 13 has a 1 in MEL, NV"):
        find_images(root, columns={"class": ["MEL", "NV", "BCC"]})


def test_a_table_that_names_no_file_is_an_error_showing_both(photos):
    root = photos(*[(f"leaf {number}", "cat") for number in range(12)])
    for labels in ("auto", "labels.csv"):
        with pytest.raises(UserError, match=r"no column names the images of .*'leaf 0, cat'.*images/0.png"):
            find_images(root, labels=labels)


def test_one_of_several_tables_is_taken_only_where_it_alone_gives_classes(photos):
    photos(*rows(["0"]), name="sample_submission.csv")  # one class for all
    photos(*[(name,) for name, _ in rows(["x"])], name="test.csv", header=("file",))
    photos(("a", "b"), ("c", "d"), name="sites.csv", header=("site", "city"))
    root = photos(name="train.csv")
    assert "train.csv" in find_images(root).notes[0]
    photos(name="other.csv")
    with pytest.raises(UserError, match=r"2 tables .*other.csv, .*train.csv.*data.labels=.*other.csv"):
        find_images(root)


@pytest.mark.parametrize(
    "name", ["corrections.csv", "split.csv", "predictions.csv", "photos-index.csv", "names.csv", "x.csv"]
)
def test_tables_of_imgbench_are_no_tables_of_labels(photos, name):
    header = ("path", "reason") if name == "x.csv" else ("file", "class")
    root = photos(name=name, header=header)
    if name == "names.csv":
        (root / "names.csv.source.json").touch()  # written by predict --output
    assert is_own(root / name)
    with pytest.raises(UserError, match=r"1 class folders?,"):
        find_images(root)
    with pytest.raises(UserError, match="is a table that imgbench writes"):
        find_images(root, labels=name)


def test_a_class_that_is_only_tested_on_is_an_error(photos):
    splits = ("train", "train", "test")
    root = photos(*rows(("cat", "dog", "emu"), splits), header=("file", "class", "split"))
    with pytest.raises(UserError, match=r"'split' has no training image of emu.*data.columns.split=null"):
        find_images(root)
    assert find_images(root, columns={"split": None}).class_names == ["cat", "dog", "emu"]


def test_what_else_the_table_says_of_an_image_can_be_asked_for(photos):
    root = photos(*rows(["cat", "dog"], ["A", "B", "C"]), header=("file", "class", "site"))
    table = find_images(root)
    found = further_columns(table)
    assert list(found) == ["site"]
    assert found["site"] == ["ABC"[int(path.split("/")[1][:-4]) % 3] for path in table.paths]
    (root / "labels.csv").unlink()
    with pytest.raises(UserError):
        further_columns(table)


def test_an_image_in_two_splits_is_trained_on(photos):
    table = rows(("cat", "dog"), ("train", "train", "train", "val", "val", "test"))
    found = find_images(photos(*table, ("5.png", "dog", "train"), header=("file", "class", "split")))
    assert found.given[found.paths.index("images/5.png")] == TRAIN
    assert sorted(set(found.given.tolist())) == [TRAIN, VAL, TEST]


def test_a_class_that_appears_once_is_an_error_that_names_all_of_them(photos, make_data):
    root = photos(*rows(("cat", "dog")), header=("file", "class"))
    make = {"labels": "labels.csv", "split": {"val": 2, "test": 2}}
    make_data(root, **make).setup()
    photos(*rows(("cat", "dog"))[2:], ("0.png", "emu"), ("1.png", "fox"))
    with pytest.raises(UserError, match=r"'emu' has 1 image.*\nSo it is with 1 more: 'fox' \(1\)[^$]*Labels from"):
        make_data(root, **make).setup()


def test_groups_of_the_table_stay_together_and_copies_join_them(photos, make_data, tmp_path):
    from imgbench.inspection.audit import group_names

    for number in range(12):  # of which no two are alike
        noise = np.random.default_rng(number).integers(0, 255, (24, 24, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"photos/images/{number}.png")
    people = ["anna", "anna", "ben", "ben", "cleo", "cleo", "dora", "dora", "emil", "emil", "finn", ""]
    root = photos(*rows(("cat", "cat", "dog", "dog"), people), header=("file", "class", "patient"))
    options = {"find_groups": group_names, "split": {"val": "test", "test": 0.3, "group": "auto"}}
    table = make_data(root, **options).table
    named = dict(zip(table.paths, table.groups, strict=True))
    assert [named[f"images/{number}.png"] for number in range(12)] == [*people[:11], "images/11.png"]
    assert len(set(zip(table.groups, table.splits.tolist(), strict=True))) == 7  # each on one side
    (root / "images/4.png").write_bytes((root / "images/0.png").read_bytes())  # cleo's is anna's
    joined = make_data(root, **options).table
    named = dict(zip(joined.paths, joined.groups, strict=True))
    assert len({named[f"images/{number}.png"] for number in (0, 1, 4, 5)}) == 1
    free = make_data(root, columns={"group": None}, **options).table
    assert not set(free.groups) & set(people[:11])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_folder, train_run):
    """A run on 24 images of a table, whose classes and groups begin as formulas do."""
    home = tmp_path_factory.mktemp("labels")
    root = make_folder(home / "photos", {"-images": 24})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGBENCH_CACHE", str(home / "cache"))
        cells = [(f"{n}.png", ("=cmd|' /C calc'!A0", "+dog")[n % 2], f"@{n // 2}") for n in range(24)]
        write(root / "labels.csv", [("file", "class", "patient"), *cells])
        return train_run(root, home / "run")


def test_a_run_keeps_the_table_and_its_columns_and_writes_no_formula(trained):
    data = trained.config["data"]
    assert data["labels"] == str((trained.path / "../photos/labels.csv").resolve())
    assert data["columns"] == {"file": "file", "class": "class", "group": "patient", "split": None, "date": None}
    for name in ("split.csv", "predictions.csv"):
        with (trained.path / name).open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert any("cmd|" in cell for cell in cells)
        assert not [cell for cell in cells if cell.startswith(tuple("=+-@"))]
    row = trained.split_rows()[0]
    assert (row["path"][:8], row["class"][:2], row["group"][:1]) == ("-images/", "+d", "@")
    from imgbench.api import Run

    assert sorted(Run(trained.path).predictions.class_names) == ["+dog", "=cmd|' /C calc'!A0"]


def test_a_run_of_a_table_is_evaluated_and_told_from_one_of_another_table(trained, tmp_path, capsys):
    from imgbench.evaluate import evaluate
    from imgbench.experiment.choose import fingerprint
    from imgbench.experiment.compose import override

    root = trained.path.parent / "photos"
    assert evaluate(trained.path).metrics["test/acc"].n == evaluate(trained.path, split="test").metrics["test/acc"].n
    for data in (root, root / "labels.csv"):
        found = evaluate(trained.path, data=data, allow_seen=True)
        assert found.metrics["test/acc"].n == 24 and found.metrics["test/acc"].groups == 12
        assert "Labels from" in found.table() and "data.columns" not in found.table()
    assert trained.holds(fingerprint(override(trained)))
    table = (root / "labels.csv").read_text("utf-8")
    try:
        (root / "labels.csv").write_text(table.replace("0.png,=cmd|' /C calc'!A0", "0.png,+dog", 1))
        assert not trained.holds(fingerprint(override(trained)))
    finally:
        (root / "labels.csv").write_text(table)


def test_shards_of_a_table_have_its_classes_and_groups(trained, tmp_path, make_data):
    pytest.importorskip("webdataset")
    from imgbench.experiment.compose import compose
    from imgbench.shard import shard

    root = trained.path.parent / "photos"
    place = shard(compose([f"data.root={root}", f"output={tmp_path / 'shards'}"], "shard"))
    found = find_images(place)
    assert sorted(found.class_names) == ["+dog", "=cmd|' /C calc'!A0"]
    assert sorted(set(found.groups)) == sorted({f"@{number}" for number in range(12)})
    with pytest.raises(UserError, match="the classes of shards stand in their index"):
        check_root(place, labels="labels.csv")


def test_the_audit_names_what_the_table_says_wrongly_and_a_table_stands_for_its_folder(trained, capsys):
    from imgbench import audit

    root = trained.path.parent / "photos"
    table = (root / "labels.csv").read_text("utf-8")
    try:
        (root / "labels.csv").write_text(f"{table}99.png,+dog,@1\n1.png,other,@0\n")
        result = audit(overrides=[str(root / "labels.csv")])
    finally:
        (root / "labels.csv").write_text(table)
    named = {finding.kind: finding.examples for finding in result.findings}
    assert named["missing_file"] == ["99.png"] and named["contradicted"] == ["-images/1.png"]
    assert "family" not in named
    (said,) = [finding.message for finding in result.findings if finding.kind == "labels"]
    assert said.startswith(f"Labels from {root}/labels.csv: ") and said in capsys.readouterr().out
