import re
import shutil
import weakref

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from imgbench.data.augment import Augment
from imgbench.decode import open_image
from imgbench.errors import UserError
from imgbench.preprocessing import STATISTICS
from imgbench.split_file import SPLITS


@pytest.fixture
def folder(tmp_path, make_folder):
    return make_folder(tmp_path / "photos", {"cat": 10, "dog": 20})


def test_every_image_is_in_exactly_one_loader(folder, make_data):
    data = make_data(folder, split={"val": 0.2, "test": 0.3})
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    counts = [sum(len(images) for images, _ in loader) for loader in loaders]
    assert counts == [15, 6, 9]
    everything = np.sort(np.concatenate([data.rows(split) for split in SPLITS]))
    assert everything.tolist() == list(range(30))


def test_thumbnails_are_not_held_while_a_network_is_trained(folder, make_data):
    data = make_data(folder)
    grey = data.table.looks.grey
    held = weakref.ref(grey)
    del grey
    data.train_dataloader()
    assert held() is None
    assert data.table.looks.grey.any()


def test_class_counts_are_those_of_the_training_images(folder, make_data):
    data = make_data(folder, split={"val": 0.2, "test": 0.3})
    assert data.class_names == ["cat", "dog"]
    assert data.class_counts().tolist() == [5, 10]


def test_selecting_on_test_validates_on_the_test_images(folder, make_data):
    data = make_data(folder, split={"val": "test", "test": 0.2})
    assert np.array_equal(data.rows("val"), data.rows("test"))
    assert (len(data.rows("train")), len(data.rows("test"))) == (24, 6)
    assert len(data.table.rows("val")) == 0


@pytest.mark.parametrize("cache", ["disk", "memory", "off"])
def test_pixels_belong_to_their_paths_also_after_damaged_files(folder, make_data, cache):
    (folder / "cat" / "00.jpg").write_text("no image")
    data = make_data(folder, cache=cache)
    for split in SPLITS:
        dataset, rows = data.dataset(split), data.rows(split)
        for i, row in enumerate(rows):
            image, target = dataset[i]
            expected = data.preprocessing.square(open_image(folder / data.table.paths[row]))
            assert np.array_equal(image.permute(1, 2, 0), expected)
            assert data.table.paths[row].startswith(data.class_names[int(target)])


def test_stated_num_classes_must_agree_with_the_folder(folder, make_data):
    assert make_data(folder, num_classes=2).class_names == ["cat", "dog"]
    with pytest.raises(UserError) as error:
        make_data(folder, num_classes=3).setup()
    assert f"data.num_classes=3, but {folder} has 2 classes: ['cat', 'dog']" in str(error.value)
    assert "Set data.num_classes=2, or null" in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize": "mean"}, "data.normalize='mean', but it is one of unit, imagenet, train"),
        ({"image_size": 32, "resize": 24}, "data.resize=24 is smaller than data.image_size=32"),
        ({"cache": "ram"}, "data.cache='ram', but it is one of"),
        ({"split": {"val": 0}}, "data.split.val=0"),
    ],
)
def test_an_impossible_option_is_an_error_naming_it(folder, make_data, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make_data(folder, **options).setup()


def test_setup_works_once(folder, make_data):
    data = make_data(folder)
    data.setup("fit")
    table = data.table
    data.setup("test")
    assert data.table is table


@pytest.mark.parametrize("cache", ["disk", "off"])
def test_normalize_train_takes_the_statistics_of_what_the_network_sees_of_the_training_images(folder, make_data, cache):
    data = make_data(folder, normalize="train", cache=cache, image_size=16, resize=20)
    data.setup()
    inside = slice(2, 18)
    train = [folder / data.table.paths[row] for row in data.rows("train")]
    pixels = np.stack([data.preprocessing.square(open_image(path))[inside, inside] for path in train]) / 255
    assert data.preprocessing.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-4)
    assert data.preprocessing.std == pytest.approx(pixels.std((0, 1, 2)), abs=1e-4)


def test_normalize_train_of_images_in_one_colour_has_a_deviation_to_divide_by(tmp_path, make_folder, make_data):
    make_folder(tmp_path, {"cat": 5, "dog": 5})
    for path in tmp_path.rglob("*.png"):
        Image.new("RGB", (24, 24), (13, 77, 99)).save(path)
    data = make_data(tmp_path, normalize="train")
    data.setup()
    assert data.preprocessing.std == (0.001, 0.001, 0.001)


@pytest.mark.parametrize("name", STATISTICS)
def test_named_statistics_are_the_preprocessings(folder, make_data, name):
    data = make_data(folder, normalize=name)
    data.setup()
    assert (data.preprocessing.mean, data.preprocessing.std) == STATISTICS[name]


def test_validation_images_of_one_group_count_once(tmp_path, make_folder, make_data):
    make_folder(tmp_path, {"cat": 6, "dog": 6})
    for path in sorted(tmp_path.rglob("*.png")):
        shutil.copy(path, path.with_name(f"{path.stem}_copy.png"))
    alone = make_data(tmp_path, split={"val": 8, "test": 4})
    assert alone.num_independent_val == 8
    grouped = make_data(tmp_path, split={"val": 8, "test": 4, "group": r"^\d+"})
    assert len(grouped.rows("val")) == 8
    assert grouped.num_independent_val == 2  # the same number in both classes, each with its copy


class Recorder(L.LightningModule):
    """Keeps the batches it is given and trains nothing."""

    def __init__(self):
        super().__init__()
        self.batches = {"train": [], "val": [], "test": []}
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.batches["train"].append(batch)
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        self.batches["val"].append(batch)

    def test_step(self, batch, batch_idx):
        self.batches["test"].append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_trainer(epochs=1):
    return L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, num_sanity_val_steps=1,
    )  # fmt: skip


def test_training_batches_are_augmented_floats_and_evaluation_batches_are_the_images_as_uint8(folder, make_data):
    data = make_data(folder, augment=Augment(flip=1.0), image_size=16, resize=20)
    recorder, trainer = Recorder(), make_trainer()
    trainer.fit(recorder, datamodule=data)
    trainer.test(recorder, datamodule=data, verbose=False)

    inside = data.preprocessing.center
    stored = {name: data.dataset(name) for name in SPLITS}
    recorder.batches["val"].pop(0)  # of Lightning's sanity check
    for name in ("val", "test"):
        images = torch.cat([images for images, _ in recorder.batches[name]])
        expected, targets = stored[name].__getitems__(range(len(stored[name])))
        assert images.dtype == torch.uint8
        assert torch.equal(images, expected[:, :, inside, inside])
        assert torch.equal(torch.cat([targets for _, targets in recorder.batches[name]]), targets)

    images = torch.cat([images for images, _ in recorder.batches["train"]])
    expected, _ = stored["train"].__getitems__(range(len(stored["train"])))
    assert images.dtype == torch.float32
    flipped = {image.numpy().tobytes() for image in expected[:, :, inside, inside].flip(-1) / 255}
    assert {image.contiguous().numpy().tobytes() for image in images} == flipped


def test_lightning_shuffles_the_training_images_anew_in_each_epoch(folder, make_data):
    def targets_of_three_epochs():
        recorder = Recorder()
        make_trainer(3).fit(recorder, datamodule=make_data(folder, batch_size=22))
        return [targets.tolist() for _, targets in recorder.batches["train"]]

    first = targets_of_three_epochs()
    assert len({tuple(targets) for targets in first}) == 3
    assert targets_of_three_epochs() == first


def test_real_photographs_go_all_the_way(real_photos, tmp_path, make_data):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for path in real_photos:
            shutil.copy(path, tmp_path / name / f"{name} ({path.stem}){path.suffix}")
    data = make_data(tmp_path, image_size=32, resize=40)
    images, targets = next(iter(data.train_dataloader()))
    assert images.shape[1:] == (3, 40, 40)
    assert set(targets.tolist()) <= {0, 1}
    assert images.float().std() > 10, "photographs are not of one colour"
