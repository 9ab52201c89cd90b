from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from imgbench.data.batches import EpochSampler, EvenBatches, ImageDataset, as_images, keep_batch
from imgbench.data.pixels import decode_images
from imgbench.data.scan import scan
from imgbench.decode import open_image
from imgbench.errors import UserError
from imgbench.preprocessing import Preprocessing

SMALL = Preprocessing(16)


def evaluation_batches(data, split="test"):
    loader = {"train": data.train_dataloader, "val": data.val_dataloader, "test": data.test_dataloader}[split]()
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def order(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def test_every_epoch_is_another_permutation():
    sampler = EpochSampler(np.zeros(50, int), seed=3)
    orders = [order(sampler, epoch) for epoch in range(4)]
    assert len(sampler) == 50
    assert all(sorted(o) == list(range(50)) for o in orders)
    assert len({tuple(o) for o in orders}) == 4


def test_the_order_depends_on_seed_and_epoch_alone():
    first = order(EpochSampler(np.zeros(50, int), seed=3), 7)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 the global generator is what must not matter
    resumed = EpochSampler(np.zeros(50, int), seed=3)
    order(resumed, 2)
    assert order(resumed, 7) == first
    assert order(EpochSampler(np.zeros(50, int), seed=4), 7) != first


def test_as_images_is_a_view_in_pytorchs_layout():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    images = as_images(pixels)
    assert images.shape == (2, 3, 5, 4)
    assert images[1, 2, 3, 0] == pixels[1, 3, 0, 2]
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.data_ptr() == pixels.ctypes.data


@pytest.fixture
def two_datasets(tmp_path, make_folder):
    """The same images, once with their pixels at hand in another order, and once decoded when asked for."""
    found = scan(make_folder(tmp_path, {"cat": 3, "dog": 4}, size=(31, 22)))
    pixels = np.stack([SMALL.square(open_image(tmp_path / path)) for path in found.paths])
    rows = np.arange(7)[::-1].copy()
    cached = ImageDataset(replace(found.take(rows), pixels=pixels[rows]), rows, SMALL)
    return cached, ImageDataset(decode_images(found, SMALL, "off"), np.arange(7), SMALL)


def test_streaming_equals_cached(two_datasets):
    cached, streamed = two_datasets
    assert len(cached) == len(streamed) == 7
    for (images, targets), (other_images, other_targets) in zip(
        [cached.__getitems__([6, 0, 3]), cached[5]], [streamed.__getitems__([6, 0, 3]), streamed[5]], strict=True
    ):
        assert images.dtype == torch.uint8
        assert targets.dtype == torch.int64
        assert torch.equal(images, other_images)
        assert torch.equal(targets, other_targets)
    assert streamed.__getitems__([6, 0, 3])[1].tolist() == [1, 0, 1]
    assert streamed[5][0].shape == (3, 16, 16)


def test_a_batch_may_be_changed_without_changing_the_cache(two_datasets):
    cached, _ = two_datasets
    before = cached[0][0].clone()
    cached.__getitems__([0])[0].zero_()
    assert torch.equal(cached[0][0], before)


def test_a_batch_passes_the_collate_function_as_it_is(two_datasets):
    batch = two_datasets[0].__getitems__([0, 1])
    assert keep_batch(batch) is batch


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_loaders_stream_the_same_batches(tmp_path, make_folder, make_data, split):
    make_folder(tmp_path, {"cat": 12, "dog": 12}, size=(31, 22))
    cached, streamed = (evaluation_batches(make_data(tmp_path, cache=cache), split) for cache in ("disk", "off"))
    assert len(cached) == len(streamed) == (4 if split == "train" else 1)
    for (images, targets), (other_images, other_targets) in zip(cached, streamed, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(targets, other_targets)


@pytest.mark.parametrize(
    ("number", "size", "sizes"), [(34, 32, [17, 17]), (65, 32, [22, 22, 21]), (64, 32, [32, 32]), (3, 8, [3])]
)
def test_batches_are_even_and_hold_every_image_once(number, size, sizes):
    batches = list(EvenBatches(EpochSampler(np.zeros(number, int), seed=0), size))
    assert [len(batch) for batch in batches] == sizes
    assert sorted(index for batch in batches for index in batch) == list(range(number))


@pytest.mark.parametrize(("number", "size", "processes"), [(7, 2, 2), (10, 4, 3), (3, 8, 3), (100, 7, 2), (64, 4, 2)])
def test_each_image_is_in_one_batch_of_one_process_and_all_have_equally_many(number, size, processes):
    parts = [
        list(EvenBatches(EpochSampler(np.zeros(number, int), seed=0), size, i, processes)) for i in range(processes)
    ]
    assert len({len(part) for part in parts}) == 1
    assert all(0 < len(batch) <= size for part in parts for batch in part)
    whole = EvenBatches(EpochSampler(np.zeros(number, int), seed=0), size * processes)
    assert [sorted(chain(*shares)) for shares in zip(*parts, strict=True)] == [sorted(batch) for batch in whole]


def vanish(path):
    path.unlink()


def change(path):
    Image.new("RGB", (24, 24)).save(path)


def damage(path):
    path.write_bytes(b"no image")


@pytest.mark.parametrize("event", [vanish, change, damage])
def test_a_photograph_changed_or_removed_while_it_is_in_use_is_named(event, tmp_path, make_folder, make_data):
    make_folder(tmp_path, {"cat": 12, "dog": 12})
    data = make_data(tmp_path, cache="off")
    path = tmp_path / data.table.paths[data.rows("train")[0]]
    event(path)
    with pytest.raises(UserError, match=f"{path} was changed or removed while it was in use"):
        list(data.train_dataloader())


def test_what_is_in_the_cache_is_not_read_again(tmp_path, make_folder, make_data):
    make_folder(tmp_path, {"cat": 12, "dog": 12})
    data = make_data(tmp_path)
    data.setup()
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    assert sum(len(images) for images, _ in data.train_dataloader()) == len(data.rows("train"))
