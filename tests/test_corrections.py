"""What people decided of photographs: a table that loses and doubles nothing, and that every command heeds."""

import csv
import json
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgbench.compare import compare
from imgbench.data import corrections
from imgbench.data.corrections import (
    BY_CHANCE,
    CLASS,
    COLUMNS,
    FILE,
    GROUP,
    LEFT_OUT,
    RIGHT,
    WITHDRAWN,
    Decision,
    Decisions,
    add_decisions,
    drawn_by_chance,
    read_decisions,
    standing,
)
from imgbench.data.look import digest
from imgbench.data.shard_writer import write_shards
from imgbench.data.walk import LeftOut
from imgbench.errors import UserError
from imgbench.evaluate import evaluate
from imgbench.inspection.audit import audit
from imgbench.inspection.labels import label_suspects

ONE, OTHER = "0" * 31 + "1", "0" * 31 + "2"


def hash_of(path: Path) -> str:
    return digest(path.read_bytes()).hex()


def decide(root: Path, *decided: tuple[str, str, str]) -> None:
    """Appends (path, decision, value) to the table beside the photographs."""
    rows = [Decision(hash_of(root / path), path, what, value, "me") for path, what, value in decided]
    add_decisions(root / FILE, rows)


@pytest.mark.parametrize(
    "text", ["=cmd|' /C calc'!A0", "+1", "-1", "@x", "'=1", "''=x", "'plain", "\t=x", '猫, "a"\nb']
)
def test_formulas_are_never_written_as_such_and_read_back_exactly(text, tmp_path):
    decision = Decision(ONE, text, CLASS, text, text, text, text)
    add_decisions(tmp_path / FILE, [decision])
    assert read_decisions(tmp_path / FILE) == [decision]
    with (tmp_path / FILE).open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))
    assert rows[0] == [*COLUMNS] and not any(cell.startswith(tuple("=+-@\t\r")) for row in rows for cell in row)
    assert (tmp_path / FILE).read_bytes().startswith(b"\xef\xbb\xbf"), "by which Excel knows UTF-8"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{ONE},a.png,delete,,,,", "line 3 has the decision 'delete', not one of class, left out"),
        ("12,a.png,right,,,,", "line 3 has the hash '12'"),
        (f"{ONE},a.png,right", "line 3 has not 7 columns"),
        (f'{ONE},"a.png,right,,,,', "unexpected end of data"),
        (f"{ONE},\udcff,right,,,,", None),
    ],
)
def test_damaged_table_is_refused_with_its_line(line, said, tmp_path):
    add_decisions(tmp_path / FILE, [Decision(ONE, "a.png", RIGHT)])
    with (tmp_path / FILE).open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(f"{line}\n")
    before = (tmp_path / FILE).read_bytes()
    if said is None:  # a name that is no UTF-8 is a name
        assert read_decisions(tmp_path / FILE)[1].path == "\udcff"
        return
    for act in (read_decisions, lambda path: add_decisions(path, [Decision(ONE, "b.png", RIGHT)])):
        with pytest.raises(UserError, match=f"corrections.csv is damaged: .*{said}"):
            act(tmp_path / FILE)
    assert (tmp_path / FILE).read_bytes() == before


def test_empty_file_is_a_table_without_decisions(tmp_path):
    (tmp_path / FILE).touch()
    assert read_decisions(tmp_path / FILE) == []
    add_decisions(tmp_path / FILE, [Decision(ONE, "a", RIGHT)])
    assert len(read_decisions(tmp_path / FILE)) == 1


def test_table_saved_with_semicolons_is_named(tmp_path):
    (tmp_path / FILE).write_text(";".join(COLUMNS) + "\n")
    with pytest.raises(UserError, match="a table with commas, in UTF-8"):
        read_decisions(tmp_path / FILE)


def test_last_decision_counts_and_everybody_takes_back_their_own():
    first, second = Decision(ONE, "a", CLASS, "dog", "Ann"), Decision(ONE, "a", RIGHT, "", "Bob")
    assert Decisions([first, second]).of(ONE, "a", "a".__eq__) == second
    assert standing([first, second, Decision(ONE, "a", WITHDRAWN, "", "Ann")]) == [second]
    assert standing([first, second, Decision(ONE, "a", WITHDRAWN, "", "Bob")]) == [first]
    assert standing([first, Decision(ONE, "a", WITHDRAWN, "", "Cid")]) == [first]


def test_decisions_at_once_are_neither_lost_nor_doubled(tmp_path):
    def work(number: int) -> None:
        new = Decision(f"{number:032x}", "a", RIGHT, by=str(number))
        for _ in range(2):  # the second is known already
            add_decisions(tmp_path / FILE, [new], lambda known: new not in known)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert sorted(int(one.by) for one in read_decisions(tmp_path / FILE)) == list(range(40))


@pytest.mark.parametrize("begun", [True, False])
def test_disk_that_fills_leaves_the_table_as_it_was_and_says_so(begun, tmp_path):
    place = tmp_path / FILE
    if begun:
        add_decisions(place, [Decision(ONE, "a", RIGHT)])
    before = place.read_bytes() if begun else None
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before or b"") + 20, limits[1]))  # ends within the row
    try:
        with pytest.raises(UserError, match=r"corrections.csv cannot be written: .*Nothing was decided"):
            add_decisions(place, [Decision(OTHER, "b" * 40, RIGHT)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (place.read_bytes() if place.exists() else None) == before
    assert add_decisions(place, [Decision(OTHER, "b" * 40, RIGHT)])


def test_table_that_excel_holds_is_named(tmp_path, monkeypatch):
    add_decisions(tmp_path / FILE, [Decision(ONE, "a", RIGHT)])

    def held(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(corrections.Path, "open", held)
    for act in (read_decisions, lambda path: add_decisions(path, [Decision(ONE, "a", RIGHT)])):
        with pytest.raises(UserError, match="perhaps Excel, holds it"):
            act(tmp_path / FILE)


@pytest.fixture
def photos(make_folder, tmp_path) -> Path:
    return make_folder(tmp_path / "photos", {"cat": 20, "dog": 20})


def test_labels_change_and_the_division_stays(photos, make_data, caplog):
    caplog.set_level("INFO")
    before = make_data(photos).table
    decide(photos, ("cat/0.png", CLASS, "dog"), ("cat/1.png", LEFT_OUT, ""), ("cat/2.png", RIGHT, ""))
    add_decisions(photos / FILE, [Decision(ONE, "gone.png", CLASS, "lion"), Decision(OTHER, "gone.png", RIGHT)])
    after = make_data(photos).table
    assert "Corrections: 1 label changed, 1 image left out, 1 looked at and right; 2 rows match no image" in caplog.text
    own = {path: row for row, path in enumerate(after.paths)}
    assert after.labels[own["cat/0.png"]] == 1 and after.labels.sum() == before.labels.sum() + 1
    changed = np.flatnonzero(after.splits != before.splits)
    assert changed.tolist() == [own["cat/1.png"]]
    assert ("cat/1.png", LeftOut.DECIDED) in after.left_out
    assert after.hash != before.hash, "other labels are other data"
    assert sorted(path.name for path in photos.iterdir()) == [f".{FILE}.lock", "cat", FILE, "dog"]


def test_division_of_a_run_holds_with_decisions_since_then(photos, make_data):
    data = make_data(photos, split={"seed": 1})
    rows = [dict(zip(("path", "class", "group", "split", "hash"), row, strict=True)) for row in data.table.split_rows()]
    decide(photos, ("cat/0.png", CLASS, "dog"), ("cat/1.png", LEFT_OUT, ""))
    table = make_data(photos).table.divided_as(rows)
    assert table is not None and table.decided is not None
    then = {row["path"]: row["split"] for row in rows}
    assert {path: split for path, _, _, split, _ in table.split_rows()} == {
        path: split for path, split in then.items() if path != "cat/1.png"
    }
    assert make_data(photos).table.divided_as([{**rows[5], "class": "lion"}, *rows[6:]]) is None


def test_of_two_files_with_the_same_bytes_the_one_that_was_meant_is_left_out(photos, make_data):
    shutil.copy(photos / "cat/0.png", photos / "dog/copy.png")
    decide(photos, ("dog/copy.png", LEFT_OUT, ""))
    assert [path for path, reason in make_data(photos).table.left_out] == ["dog/copy.png"]
    (photos / "dog/copy.png").rename(photos / "dog/moved.png")
    (photos / "cat/0.png").unlink()
    assert [path for path, reason in make_data(photos).table.left_out] == ["dog/moved.png"], "known by its content"


def test_photographs_that_a_decision_puts_together_come_to_one_side(photos, make_data):
    together = [f"cat/{number}.png" for number in range(6)]
    decide(photos, *((path, GROUP, "one plant") for path in together))
    table = make_data(photos, split={"group": None}).table
    splits = {split for path, _, _, split, _ in table.split_rows() if path in together}
    assert len(splits) == 1 and table.groups.count("one plant") == 6


def test_what_is_left_out_comes_into_no_shard_and_decisions_beside_shards_count(photos, make_data, tmp_path):
    pytest.importorskip("webdataset", reason='nothing to write shards with: pip install "imgbench[shards]"')
    decide(photos, ("cat/0.png", LEFT_OUT, ""), ("cat/1.png", CLASS, "dog"))
    root = write_shards(make_data(photos).table, tmp_path / "shards", 100, 0)
    table = make_data(root).table
    assert "cat/0.png" not in table.paths and table.decided is None
    assert table.labels[table.paths.index("cat/1.png")] == 1
    add_decisions(tmp_path / "shards" / FILE, [Decision(hash_of(photos / "dog/1.png"), "dog/1.png", CLASS, "cat")])
    table = make_data(root).table
    assert table.labels[table.paths.index("dog/1.png")] == 0


@pytest.mark.parametrize(
    ("decisions", "said"),
    [
        ([("cat/0.png", CLASS, "lion")], r"cat/0.png is given the class 'lion', but there are \['cat', 'dog'\]"),
        ([(f"cat/{number}.png", LEFT_OUT, "") for number in range(20)], r"leaves no train image of \['cat'\]"),
    ],
)
def test_decisions_that_cannot_be_are_named(decisions, said, photos, make_data):
    decide(photos, *decisions)
    with pytest.raises(UserError, match=said):
        make_data(photos).setup()


def test_table_of_other_photographs_is_said(photos, make_data, caplog):
    add_decisions(photos / FILE, [Decision(ONE, "a.png", CLASS, "lion")])
    assert make_data(photos).table.decided is None
    assert f"no row of the 1 in {FILE} matches an image here" in caplog.text


def test_table_elsewhere_counts_and_has_to_be_there(photos, make_data, tmp_path):
    decide(photos, ("cat/0.png", CLASS, "dog"))
    (photos / FILE).rename(tmp_path / "mine.csv")
    assert make_data(photos).table.decided is None
    assert make_data(photos, corrections=str(tmp_path / "mine.csv")).table.decided is not None
    for wrong in ("nowhere.csv", "table"):
        with pytest.raises(UserError, match=f"data.corrections={wrong}, but"):
            make_data(photos, corrections=wrong).setup()


def test_what_was_looked_at_is_not_raised_again(photos, make_data):
    image = Image.open(photos / "cat/0.png").resize((64, 64))
    image.save(photos / "cat/a.png")
    image.rotate(1).save(photos / "dog/b.png")
    (photos / "cat/0.png").unlink()
    shutil.move(photos / "dog/3.png", photos / "cat/wrong.png")
    (photos / "dog/broken.png").write_bytes((photos / "dog/4.png").read_bytes()[:-60])
    Image.new("RGB", (24, 24)).save(photos / "dog/black.png")

    def raised() -> tuple[set[str], set[str]]:
        table = make_data(photos, split={"group": None}).table
        result = audit(table)
        kinds = {finding.kind for finding in result.findings}
        return kinds, {suspect.path for suspect in label_suspects(table)} | {
            path for pair in result.pairs for path in pair["paths"]
        }

    kinds, named = raised()
    assert {"damaged", "one_colour"} <= kinds and {"cat/wrong.png", "cat/a.png", "dog/b.png"} <= named
    pair = [hash_of(photos / name) for name in ("cat/a.png", "dog/b.png")]
    decide(photos, *((f"dog/{name}.png", RIGHT, "") for name in ("broken", "black", "b")))
    decide(photos, ("cat/wrong.png", RIGHT, ""), ("cat/a.png", RIGHT, pair[1]))
    kinds, named = raised()
    assert not {"damaged", "one_colour"} & kinds and not {"cat/wrong.png", "cat/a.png", "dog/b.png"} & named
    assert "corrections" in kinds


def test_run_keeps_both_accuracies_and_comparisons_judge_by_the_new_labels(photos, train_run, tmp_path, capsys):
    old = train_run(photos, tmp_path / "old", "data.audit=false", "seed=1")
    test = [row["path"] for row in old.split_rows("test")]
    other = {"cat": "dog", "dog": "cat"}
    decide(photos, (test[0], CLASS, other[test[0][:3]]), (test[1], LEFT_OUT, ""), (test[2], RIGHT, ""))
    new = train_run(photos, tmp_path / "new", "data.audit=false", "seed=1")
    metrics = json.loads((new.path / "metrics.json").read_text())
    after, before = metrics["test/acc"], metrics["test/acc_before_corrections"]
    assert (after["n"], before["n"]) == (len(test) - 1, len(test))
    assert "Corrections    of test labels; with the labels before them" in capsys.readouterr().out
    facts = new.info["corrections"]
    assert facts["test_classes_before"] == {test[0]: test[0][:3]} and len(facts["hash"]) == 32
    assert not old.holds(new.info["fingerprint"])
    found = compare([old.path, new.path])
    assert {one.accuracy.n for one in found.configurations} == {len(test) - 1}
    assert len(found.differences) == 1, "the same settings with other labels are two configurations"
    assert any("2 test images were relabelled or left out" in note for note in found.notes)
    answers = {one.runs[0].run.path: one.runs[0].correct for one in found.configurations}
    relabelled = (test[0], hash_of(photos / test[0]))
    predicted = dict(line.split(",")[::3][:2] for line in (old.path / "predictions.csv").read_text().splitlines())
    assert answers[old.path][relabelled] == (predicted[test[0]] == other[test[0][:3]])
    evaluated = evaluate(old.path)
    assert evaluated.metrics["test/acc"].n == len(test) - 1
    assert evaluated.metrics["test/acc_before_corrections"].n == len(test)
    assert "test accuracy before corrections" in evaluated.table()


def test_cross_validated_run_keeps_both_accuracies_and_heeds_later_decisions(photos, train_run, tmp_path):
    decide(photos, ("cat/0.png", CLASS, "dog"))
    run = train_run(photos, tmp_path / "run", "data.split.folds=2", "data.audit=false")
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics["test/acc"]["n"] == metrics["test/acc_before_corrections"]["n"] == 40
    assert run.info["corrections"]["test_classes_before"] == {"cat/0.png": "cat"}
    decide(photos, ("cat/1.png", LEFT_OUT, ""))
    assert evaluate(run.path).metrics["test/acc"].n == 39


def test_copy_in_another_split_stays_where_only_its_copy_is_left_out(make_folder, make_data, fit_run, tmp_path):
    root = tmp_path / "photos"
    for split, number in (("train", 10), ("val", 4), ("test", 4)):
        make_folder(root / split, {"cat": number, "dog": number})
    shutil.copy(root / "test/cat/0.png", root / "train/cat/copy.png")
    decide(root, ("train/cat/copy.png", LEFT_OUT, ""))
    run = fit_run(root, tmp_path / "run")
    assert evaluate(run.path).metrics["test/acc"].n == 8


def test_sample_drawn_by_chance_holds_what_was_asked_before_its_turn_came():
    hashes = [f"{number:032x}" for number in range(6)]
    drawn = [Decision(hashes[number], "", CLASS, "cat", why=BY_CHANCE) for number in (0, 3)]
    others = [Decision(hashes[number], "", CLASS, "cat", why="Which class is it?") for number in (1, 5)]
    assert drawn_by_chance(hashes, [*drawn, *others]).tolist() == [True] * 4 + [False] * 2
    assert not drawn_by_chance(hashes, others).any()
