"""Photographs that people gave a class: they are trained on where they lie, and nothing that is tested on is learnt."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import command
from PIL import Image

from imgbench.data.corrections import CLASS, FILE, LEFT_OUT, RIGHT, Decision, add_decisions
from imgbench.data.look import digest
from imgbench.data.walk import LeftOut
from imgbench.errors import UserError
from imgbench.inspection.audit import audit, group_names
from imgbench.run import Run


def label(place: Path, *given: tuple[Path, str, str]) -> None:
    """Appends (file, decision, value) to a table of decisions, by the path as it is written."""
    rows = [Decision(digest(file.read_bytes()).hex(), str(file), what, value, "Ann") for file, what, value in given]
    add_decisions(place, rows)


@pytest.fixture
def photos(tmp_path, make_folder) -> Path:
    """`photos` with two classes, and beside it `more`, whose photographs have none."""
    root = make_folder(tmp_path / "photos", {"cat": 24, "dog": 24}, 64)
    make_folder(tmp_path / "new", {"more": 8}, 64)
    shutil.move(tmp_path / "new" / "more", tmp_path / "more")
    return root


def read(make_data, root: Path):
    return make_data(root, find_groups=group_names).table


def test_labelled_photographs_from_elsewhere_are_trained_on_and_the_division_stays(photos, make_data, caplog):
    before = read(make_data, photos)
    more = sorted((photos.parent / "more").iterdir())
    label(photos / FILE, *((file, CLASS, "cat") for file in more[:4]), (more[0], CLASS, "dog"), (more[1], LEFT_OUT, ""))
    caplog.set_level("INFO")
    table = read(make_data, photos)
    own = len(before.paths)
    assert table.paths[:own] == before.paths and np.array_equal(table.splits[:own], before.splits)
    assert [table.photograph(row) for row in range(own, own + 3)] == [more[0], more[2], more[3]]
    assert [table.class_names[code] for code in table.labels[own:]] == ["dog", "cat", "cat"]
    assert table.splits[own:].tolist() == [0, 0, 0]
    assert "Corrections: 3 photographs labelled, 0 labels changed" in caplog.text
    assert audit(table).images == own + 3
    assert not table.looked_at, "the audit may doubt a first label as any other"
    label(photos / FILE, (more[0], RIGHT, ""))
    assert [table.paths[row] for row in read(make_data, photos).looked_at] == [table.paths[own]]
    more[2].write_bytes(more[5].read_bytes())  # another content is not what was looked at
    assert len(read(make_data, photos).paths) == own + 2


def test_copy_of_a_test_image_is_left_out_and_named(photos, make_data):
    before = read(make_data, photos)
    tested, trained = (photos / before.paths[before.rows(split)[0]] for split in ("test", "train"))
    same, alike, harmless = (photos.parent / "more" / name for name in ("same.png", "alike.jpg", "harmless.png"))
    shutil.copy(tested, same)
    Image.open(tested).resize((80, 80)).save(alike, quality=90)
    shutil.copy(trained, harmless)
    label(photos / FILE, (same, CLASS, "dog"), (alike, CLASS, "cat"), (harmless, CLASS, before.class_names[0]))
    table = read(make_data, photos)
    left_out = table.passed_over[LeftOut.RELATED_NEW]
    assert [Path(path).name for path in left_out] == ["same.png", "alike.jpg"]
    assert {path for path, *_ in table.split_rows()}.isdisjoint(left_out)
    assert {before.hashes[row] for row in before.rows("test")} == {table.hashes[row] for row in table.rows("test")}


def test_class_that_there_is_not_is_refused(photos, make_data):
    label(photos / FILE, (next((photos.parent / "more").iterdir()), CLASS, "fox"))
    with pytest.raises(UserError, match=r"is given the class 'fox', but there are \['cat', 'dog'\]"):
        read(make_data, photos)


def test_run_is_divided_as_before_after_more_were_labelled(photos, make_data):
    before = read(make_data, photos)
    rows = [dict(zip(("path", "class", "group", "split", "hash"), row, strict=True)) for row in before.split_rows()]
    label(photos / FILE, *((file, CLASS, "cat") for file in sorted((photos.parent / "more").iterdir())))
    table = read(make_data, photos)
    again = table.divided_as(rows)
    assert again is not None and np.array_equal(again.splits, table.splits)
    assert (again.splits == 0).sum() == (before.splits == 0).sum() + 8


def test_folder_without_classes_is_trained_by_the_labels_that_people_gave(photos, make_data):
    root = photos.parent / "more"
    files = sorted(root.iterdir())
    add_decisions(
        root / FILE,
        [
            Decision(digest(file.read_bytes()).hex(), file.name, CLASS, "ab"[i % 2], "Ann")
            for i, file in enumerate(files[:7])
        ],
    )
    files[0].rename(root / "renamed.png")  # known by its content
    table = read(make_data, root)
    assert table.class_names == ["a", "b"] and len(table.paths) == 7 and "renamed.png" in table.paths
    assert table.passed_over[LeftOut.UNLABELLED] == [files[7].name]
    assert sorted(set(table.splits.tolist())) == [0, 1, 2]
    assert (root / FILE).is_file() and LeftOut.OTHER not in table.passed_over
    with pytest.raises(UserError, match="people have labelled 7 of the photographs"):
        label(root / FILE, *((file, CLASS, "a") for file in root.glob("*.png") if file != files[7]))
        read(make_data, root)


def test_train_learns_from_them_and_says_so(photos, tmp_path):
    more = sorted((photos.parent / "more").iterdir())
    label(photos / FILE, *((file, CLASS, "cat") for file in more))
    words = ["model=cnn", "data.image_size=20", "trainer.max_epochs=1", "augment=none", "hydra.run.dir=run"]
    done = command("train", photos, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Corrections: 8 photographs labelled" in done.stdout + done.stderr
    run = Run(tmp_path / "run")
    assert sum("more/" in row["path"] for row in run.split_rows("train")) == 8
    again = command("train", "--config-dir", "run", "--config-name", "config", "hydra.run.dir=again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert list(Run(tmp_path / "again").split_rows()) == list(run.split_rows())
    assert command("evaluate", "run", "--split", "val", cwd=tmp_path).returncode == 0
