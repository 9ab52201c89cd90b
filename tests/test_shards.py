"""Images in shards are divided, trained on and evaluated as those of a folder are, to the bit."""

import gc
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from webdataset.compat import WebDataset
from webdataset.writer import ShardWriter

from imgbench.compare import compare
from imgbench.data.batches import WINDOW, EpochSampler, EvenBatches
from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.read import read_table
from imgbench.data.shard_index import find_images, index_shards
from imgbench.data.shards import ShardImage, Shards, index_path
from imgbench.data.split import SplitPlan
from imgbench.data.walk import LeftOut
from imgbench.errors import UserError
from imgbench.evaluate import evaluate
from imgbench.experiment.compose import compose
from imgbench.experiment.inspect import inspect_configured
from imgbench.inference.parity import export_onnx
from imgbench.inspection.audit import shown_pairs
from imgbench.preprocessing import Preprocessing
from imgbench.run import Run
from imgbench.shard import as_words, shard
from imgbench.train import train

SMALL = ["model=cnn", "data.image_size=20", "data.batch_size=4", "trainer.max_epochs=1", "augment=light",
         "optimizer=adam", "scheduler=constant"]  # fmt: skip


def make_shards(photos: Path, folder: Path, images_per_shard: int = 7, *words: str) -> str:
    words = ("data=folder", f"data.root={photos}", f"output={folder}", f"images_per_shard={images_per_shard}", *words)
    return shard(compose(words, "shard"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory, make_folder) -> Path:
    """48 photographs, of which two show the same thing; the names are awkward."""
    root = make_folder(tmp_path_factory.mktemp("photos") / "photos", {"cat": 22, "dog.big": 22})
    (root / "cat" / "0.png").rename(root / "cat" / "1 (1).最后.png")
    (root / "cat" / "copy.png").write_bytes((root / "cat" / "3.png").read_bytes())
    Image.open(root / "cat" / "5.png").save(root / "cat" / "1 (1).jpg")
    Image.open(root / "dog.big" / "5.png").save(root / "dog.big" / ("x" * 120 + ".JPG"))
    Image.open(root / "dog.big" / "7.png").save(root / "dog.big" / "no ending", "BMP")
    return root


@pytest.fixture(scope="module")
def root(photos) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGBENCH_CACHE", str(photos.parent / "cache"))
        return make_shards(photos, photos.parent / "shards")


def run_on(root: str | Path, folder: Path, *words: str) -> Run:
    choice = "shards" if str(root).endswith(".tar") else "folder"
    run = Run(folder)
    train(compose([f"data={choice}", f'data.root="{root}"', *SMALL, *words]), run)
    return run


def weights(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.last, weights_only=True)["state_dict"]


def same_weights(run: Run, other: Run) -> bool:
    ours, theirs = weights(run), weights(other)
    return all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_shards_hold_the_bytes_of_all_images_and_are_what_webdataset_reads(photos, root):
    found = find_images(root)
    assert root.endswith("photos-{000000..000006}.tar")
    assert {path: found.read(row) for row, path in enumerate(found.paths)} == {
        path.relative_to(photos).as_posix(): path.read_bytes() for path in photos.rglob("*") if path.is_file()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves closing its files to the garbage collector
        read = list(WebDataset(root, shardshuffle=False))
        gc.collect()
    assert len(read) == len(found.paths) == 48
    contents = [next(value for key, value in sample.items() if key[0] != "_" and key != "cls") for sample in read]
    assert sorted(contents) == sorted(found.read(row) for row in range(48))
    assert [int(sample["cls"]) for sample in read] == ["dog.big/" in sample["__key__"] for sample in read]


def test_index_names_relatives_which_stay_on_one_side(root):
    table = read_table(root, Preprocessing(16), SplitPlan(group="auto"))
    groups, sides = dict(zip(table.paths, table.groups, strict=True)), dict(zip(table.paths, table.splits, strict=True))
    assert groups["cat/copy.png"] == groups["cat/3.png"] != groups["cat/4.png"]
    assert sides["cat/copy.png"] == sides["cat/3.png"]


@pytest.fixture(scope="module")
def streamed(root, tmp_path_factory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return run_on(root, tmp_path_factory.mktemp("streamed") / "run", "data.cache=off")


def test_run_on_shards_is_that_on_the_folder_to_the_bit(photos, root, streamed, tmp_path):
    folder, cached = run_on(photos, tmp_path / "folder"), run_on(root, tmp_path / "cached")
    for run in (cached, streamed):
        assert same_weights(run, folder)
        for name in ("split.csv", "predictions.csv", "metrics.json"):
            assert (run.path / name).read_bytes() == (folder.path / name).read_bytes(), name
    assert not (cached.path / "audit.json").exists()


def test_run_on_shards_is_read_by_every_later_command(photos, root, streamed, tmp_path, monkeypatch, capsys):
    run = Run(shutil.copytree(streamed.path, tmp_path / "run"))
    known = json.loads((run.path / "metrics.json").read_text())
    assert evaluate(run.path, "val").metrics["val/acc"].to_dict() == known["val/acc"]
    from_folder = evaluate(run.path, data=photos, allow_seen=True)
    assert evaluate(run.path, data=root, allow_seen=True).metrics == from_folder.metrics
    monkeypatch.chdir(tmp_path)
    report = compare([run.path, run_on(root, tmp_path / "other", "seed=2").path])
    assert report is not None
    assert export_onnx(run.path, images=4)["images"] == 4


def test_resumed_run_ends_with_the_same_weights(root, tmp_path):
    words = ["data.cache=off", "trainer.max_epochs=2", "+callbacks.last.share=1e6"]
    whole, stopped = run_on(root, tmp_path / "whole", *words), tmp_path / "stopped"
    run_on(root, stopped, *words, "trainer.max_epochs=1")
    resumed = run_on(root, stopped, *words, f"ckpt_path={Run(stopped).last}")
    assert same_weights(resumed, whole)


def test_audit_looks_at_the_images_of_shards_as_at_those_of_a_folder(photos, root):
    of_folder = inspect_configured(compose(["data=folder", f"data.root={photos}"]))
    of_shards = inspect_configured(compose(["data=shards", f'data.root="{root}"']))
    assert of_shards.pairs == of_folder.pairs != []
    assert np.array_equal(shown_pairs(of_shards)[0], shown_pairs(of_folder)[0])
    assert of_shards.hash == of_folder.hash
    kinds = {finding.kind for finding in of_folder.findings}
    assert {finding.kind for finding in of_shards.findings} == kinds


def test_streamed_shards_are_looked_at_once_whatever_the_split(root, monkeypatch):
    def looks(seed):
        return read_table(root, Preprocessing(16), SplitPlan(seed=seed), cache="off").looks

    first = looks(1)
    monkeypatch.setattr(ShardImage, "read_bytes", None)
    again = looks(2)
    assert np.array_equal(again.facts, first.facts)
    assert np.array_equal(again.grey, first.grey)


def test_folders_of_splits_are_kept(make_folder, tmp_path):
    make_folder(tmp_path / "photos" / "train", {"cat": 8, "dog": 8})
    make_folder(tmp_path / "photos" / "test", {"cat": 3})
    root = make_shards(tmp_path / "photos", tmp_path / "shards")
    found = find_images(root)
    assert np.bincount(found.given).tolist() == [16, 0, 3]
    of_folder, of_shards = (read_table(place, Preprocessing(16), SplitPlan()) for place in (tmp_path / "photos", root))
    assert of_shards.hash == of_folder.hash
    assert of_shards.folder_splits == ["train", "test"]


def test_a_test_image_left_out_for_its_relative_in_train_does_not_become_a_training_image(make_folder, tmp_path):
    make_folder(tmp_path / "photos" / "train", {"cat": 4, "dog": 4})
    copy = make_folder(tmp_path / "photos" / "test", {"cat": 3, "dog": 3}) / "cat" / "copy.png"
    copy.write_bytes((tmp_path / "photos" / "train" / "cat" / "0.png").read_bytes())
    root = make_shards(tmp_path / "photos", tmp_path / "shards", 7, "data.split.leaks=drop")
    table = read_table(root, Preprocessing(16), SplitPlan(group="auto", leaks="drop", val=2))
    assert table.passed_over == {LeftOut.RELATED_TEST: ["test/cat/copy.png"]}


def test_images_of_16_bits_keep_their_range_when_streamed(tmp_path):
    for name, low in (("dark", 0), ("light", 2000)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.random.default_rng(low + i).integers(low, low + 2000, (16, 16)).astype(np.uint16)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    root = make_shards(tmp_path / "photos", tmp_path / "shards")
    assert read_table(root, Preprocessing(16), SplitPlan(), cache="off").intensity == (0, 4095)
    index_path(root).unlink()
    index_shards(root)
    assert read_table(root, Preprocessing(16), SplitPlan(), cache="off").intensity == (0, 4095)


def test_every_image_comes_once_in_each_epoch_whatever_the_number_of_processes():
    numbers = np.repeat(np.arange(3 * WINDOW), 5)
    np.random.default_rng(0).shuffle(numbers)
    sampler = EpochSampler(numbers, seed=1)
    for processes in (1, 3):
        seen = [i for rank in range(processes) for batch in EvenBatches(sampler, 4, rank, processes) for i in batch]
        assert sorted(seen) == list(range(len(numbers)))


def test_shards_are_shuffled_a_few_at_a_time_and_anew_in_each_epoch():
    numbers = np.repeat(np.arange(3 * WINDOW), 5)
    sampler = EpochSampler(numbers, seed=1)
    first, again = list(sampler), list(sampler)
    windows = numbers[np.array(first)].reshape(3, -1)
    assert [len(set(window)) for window in windows.tolist()] == [WINDOW] * 3
    assert all((np.diff(window) != 0).mean() > 0.5 for window in windows)
    sampler.set_epoch(1)
    assert first == again != list(sampler)


def foreign(folder: Path, samples: list[dict[str, bytes | str]], maxcount: int = 4) -> str:
    """Shards as another program writes them, without an index."""
    folder.mkdir()
    with ShardWriter(f"{folder}/set-%04d.tar", maxcount=maxcount, verbose=0) as writer:
        for sample in samples:
            writer.write(sample)
    return f"{folder}/set-{{0000..{(len(samples) - 1) // maxcount:04d}}}.tar"


def image_bytes(photos: Path, number: int) -> bytes:
    return sorted(photos.rglob("*.png"))[number].read_bytes()


def test_shards_of_other_programs_get_an_index_which_the_error_asks_for(photos, tmp_path):
    samples = [
        {"__key__": f"part/{i:04d}", "png": image_bytes(photos, i), "cls": str(int(i == 9)), "json": b"{}"}
        for i in range(10)
    ]
    root = foreign(tmp_path / "foreign", samples)
    with pytest.raises(UserError, match=r"set-index.csv is missing.*\n.*imgbench.shard data=shards data.root="):
        find_images(root)
    assert shard(compose(["data=shards", f'data.root="{root}"'], "shard")) == root
    found = find_images(root)
    assert found.class_names == ["0", "1"]
    assert found.labels.tolist() == [0] * 9 + [1]
    assert [found.read(row) for row in range(10)] == [sample["png"] for sample in samples]


def test_lost_index_is_made_again_with_the_names_of_the_classes(root, tmp_path):
    shutil.copytree(Path(root).parent, tmp_path / "copy")
    copy = str(tmp_path / "copy" / Path(root).name)
    index_path(copy).unlink()
    index_shards(copy)
    before, after = find_images(root), find_images(copy)
    assert after.class_names == before.class_names
    assert sorted(map(after.read, range(48))) == sorted(map(before.read, range(48)))


def test_class_that_only_the_last_shard_has_is_known_and_missed_where_that_is_not_named(photos, tmp_path, caplog):
    samples = [{"__key__": f"{'abc'[min(i // 4, 2)]}/{i}", "png": image_bytes(photos, i)} for i in range(12)]
    root = foreign(tmp_path / "sorted", samples)
    index_shards(root)
    assert find_images(root).class_names == ["a", "b", "c"]
    fewer = find_images(root.replace("0002", "0001"))
    assert fewer.class_names == ["a", "b"]
    assert fewer.notes == [f"data.root names 2 of the 3 shards of {index_path(root)}, and no image of ['c']."]
    with pytest.raises(UserError, match=r"has 1 class, \['a'\], but it takes at least 2. data.root names 1 of"):
        find_images(root.replace("{0000..0002}", "0000"))
    table = read_table(root, Preprocessing(16), SplitPlan(val=3, test=3))
    assert not any(table.missing_classes(split) for split in ("train", "val", "test"))


@pytest.fixture
def copy(root, tmp_path) -> str:
    shutil.copytree(Path(root).parent, tmp_path / "copy")
    return str(tmp_path / "copy" / Path(root).name)


def test_shard_that_is_cut_short_is_named_before_anything_is_read(copy):
    last = Path(copy).parent / "photos-000003.tar"
    with last.open("r+b") as file:
        file.truncate(4000)
    with pytest.raises(UserError, match=r"photos-000003.tar is cut short: it has 4,000 bytes"):
        find_images(copy)
    with pytest.raises(UserError, match=r"photos-000003.tar is no tar, or cut short"):
        index_shards(copy)
    assert index_path(copy).is_file()


def test_missing_shard_is_named_with_those_that_are_there(copy):
    (Path(copy).parent / "photos-000006.tar").unlink()
    with pytest.raises(UserError, match=r"1 of 7 shards are missing.*photos-000006.tar") as error:
        find_images(copy)
    assert "photos-{000000..000005}.tar" in str(error.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [("cat/x.png,cat,,,zz,photos-000000.tar,1,1,", "hexadecimal"), ("cat/x.png,cat", "has not 9 columns"),
     ("cat/x.png,cat,,valid,00,photos-000000.tar,1,1,", "valid"),
     (f"cat/x.png,cat,,,{'0' * 32},photos-000000.tar,-1,1,", "the offset '-1'")],
)  # fmt: skip
def test_damaged_index_is_named_with_the_line(copy, line, reason):
    with index_path(copy).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=rf"photos-index.csv is damaged: line 50 .*{reason}"):
        find_images(copy)


def test_image_that_is_another_than_the_index_says_ends_the_run(copy, tmp_path):
    shard_file = Path(copy).parent / "photos-000000.tar"
    content = bytearray(shard_file.read_bytes())
    shards = find_images(copy).source
    assert isinstance(shards, Shards)
    for offset in shards.offsets[shards.numbers == 0].tolist():
        content[offset + 60] ^= 255
    shard_file.write_bytes(content)
    with pytest.raises(UserError, match=r"was changed or removed while it was in use \(its content is another\)"):
        run_on(copy, tmp_path / "run", "data.cache=off")


def test_images_that_the_index_has_no_more_are_counted_as_gone(copy, tmp_path):
    run = run_on(copy, tmp_path / "run", "data.cache=off")
    gone = run.split_rows("test")[0]["path"]
    lines = index_path(copy).read_text("utf-8").splitlines(keepends=True)
    index_path(copy).write_text("".join(line for line in lines if not line.startswith(f"{gone},")), "utf-8")
    assert f"1 image is gone since training, for example {gone}" in evaluate(run.path).notes


def test_folder_of_shards_is_answered_with_their_name(root):
    with pytest.raises(UserError, match=r"holds shards. Name them: .*photos-\{000000..000006\}.tar"):
        find_images(Path(root).parent)


def test_output_that_is_there_is_left_alone(photos, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match=r"output=.*mine is there already, and not empty"):
        make_shards(photos, tmp_path / "mine")
    with pytest.raises(UserError, match=r"output is not set.*output=DIR"):
        shard(compose(["data=folder", f"data.root={photos}"], "shard"))
    with pytest.raises(UserError, match=r"images_per_shard=0, but it is a number of images"):
        make_shards(photos, tmp_path / "other", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_output_may_be_said_as_other_commands_have_it():
    assert as_words(["data=folder", "--output", "a b"]) == as_words(["data=folder", "--output=a b"])
    assert as_words(["--output", "a b"]) == ["output=a b"]


def test_what_a_killed_command_left_is_removed(photos, tmp_path):
    (tmp_path / ".shards-unfinished").mkdir()
    (tmp_path / ".shards-unfinished" / "photos-000000.tar").write_bytes(b"half")
    make_shards(photos, tmp_path / "shards")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards"]


def test_shards_made_again_are_the_same(photos, root, tmp_path):
    again = Path(make_shards(photos, tmp_path / "again")).parent
    for path in Path(root).parent.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_shard_that_vanishes_in_the_middle_is_named(copy):
    table = read_table(copy, Preprocessing(16), SplitPlan(val=3, test=3), cache="off")
    batches = iter(ImageFolderDataModule.of_table(table, Preprocessing(16)).test_dataloader())
    for file in Path(copy).parent.glob("*.tar"):
        file.unlink()
    with pytest.raises(UserError, match=r"photos-00000\d\.tar.*was changed or removed while it was in use"):
        list(batches)
