"""Copies are found however they were changed, and different pictures are not taken for copies."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import REAL_DATA
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from imgbench.benchmark.development.planted_copies import FAULTS
from imgbench.data.read import read_table
from imgbench.data.split import SplitPlan
from imgbench.inspection import candidates as search
from imgbench.inspection.alignment import COARSE, FINE, similarities
from imgbench.inspection.candidates import (
    FREQUENCIES,
    NEIGHBOURS,
    ORIENTATIONS,
    VIEWS,
    NeighbourIndex,
    find_candidates,
    invariants,
    turned,
)
from imgbench.inspection.duplicates import ALIKE, CLOSEST, _among_the_closest, connected, find_duplicates
from imgbench.inspection.file_facts import read_headers
from imgbench.inspection.thumbnails import make_thumbnails
from imgbench.preprocessing import Preprocessing


def texture(seed: int, size: int = 96) -> Image.Image:
    """Structures of several sizes, as photographs have them."""
    rng = np.random.default_rng(seed)
    image = np.zeros((size, size, 3))
    for cells, strength in ((3, 60), (6, 40), (12, 25), (24, 16), (48, 10)):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        image += strength / 128 * (np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) - 128.0)
    return Image.fromarray(np.clip(image + 118, 0, 255).astype(np.uint8))


def write(root: Path, images: dict[str, Image.Image]) -> Path:
    for name, image in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / name)
    return root


def pairs_of(root: Path, size: int = 64, cache: str = "memory") -> dict[tuple[str, str], str]:
    """(name, name) -> kind, of those that are taken for copies."""
    table = read_table(root, Preprocessing(size), SplitPlan(), cache)
    pairs = [pair for pair in find_duplicates(table, make_thumbnails(table), read_headers(table)) if pair.copies]
    names = [Path(path).stem for path in table.paths]
    ends = [(names[pair.first], names[pair.second]) for pair in pairs]
    return {(min(end), max(end)): pair.kind for end, pair in zip(ends, pairs, strict=True)}


@pytest.fixture
def textures(tmp_path):
    return write(tmp_path, {f"{'ab'[i % 2]}/{i}.png": texture(i) for i in range(40)})


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_copies_are_found_and_nothing_else(textures, fault):
    write(textures, {f"{'ab'[i % 2]}/copy{i}.png": FAULTS[fault](texture(i)) for i in range(8)})
    kind = "exact" if fault.startswith("exact") else "near"
    assert pairs_of(textures) == {(str(i), f"copy{i}"): kind for i in range(8)}


def test_textures_are_no_copies_of_each_other(textures):
    assert pairs_of(textures) == {}


def test_a_turned_and_recompressed_copy_in_another_class_is_found_without_decoded_pixels(textures):
    copy = FAULTS["JPEG, quality 50"](texture(0).transpose(Image.Transpose.TRANSVERSE))
    write(textures, {"b/copy.jpg": copy})
    assert pairs_of(textures, cache="off") == {("0", "copy"): "near"}


def test_the_same_pixels_in_another_format_are_exact_and_many_copies_are_linked_to_the_first(textures):
    write(textures, {f"a/copy{n}.{ending}": texture(0) for n, ending in enumerate(("bmp", "tiff", "png"))})
    assert pairs_of(textures) == {("0", f"copy{n}"): "exact" for n in range(3)}


def test_pictures_that_differ_in_a_few_pixels_look_alike_and_are_not_called_the_same(textures):
    whole = texture(50, 640)
    retouched = np.array(whole)
    retouched[300, 300] += 5
    write(textures, {"a/one.png": whole, "a/retouched.png": Image.fromarray(retouched), "b/same.tiff": whole})
    table = read_table(textures, Preprocessing(64), SplitPlan(), "memory")
    assert len(set(make_thumbnails(table).hashes.tolist())) == 41, "small pictures do not tell them apart"
    assert pairs_of(textures) == {("one", "same"): "exact", ("one", "retouched"): "near"}


def test_a_common_frame_or_caption_does_not_make_pictures_the_same(tmp_path):
    def framed(image: Image.Image) -> Image.Image:
        page = ImageOps.expand(image, 10, "black")
        ImageDraw.Draw(page).text((12, 100), "HOSPITAL 7", fill="white")
        return page

    write(tmp_path, {f"{'ab'[i % 2]}/{i}.png": framed(texture(i)) for i in range(40)})
    assert pairs_of(tmp_path) == {}


def test_a_picture_taken_twice_with_a_little_movement_is_found(textures):
    moved = texture(0).rotate(2, Image.Resampling.BICUBIC, translate=(2, -1), fillcolor=(118, 118, 118))
    write(textures, {"a/again.png": ImageEnhance.Contrast(moved).enhance(0.9)})
    assert pairs_of(textures) == {("0", "again"): "near"}


def test_what_many_images_have_in_common_makes_no_copies_of_them(tmp_path):
    images = [Image.blend(texture(0), texture(1 + i), 0.4) for i in range(30)]
    write(tmp_path, {f"{'ab'[i % 2]}/{i}.png": image for i, image in enumerate(images)})
    write(tmp_path, {"b/copy.png": images[0].resize((64, 64))})
    assert pairs_of(tmp_path) == {("0", "copy"): "near"}


def silhouettes(number: int) -> dict[str, Image.Image]:
    """Things of one shape on one ground, each with a pattern of its own."""
    ground, shape = Image.blend(Image.new("RGB", (96, 96), "white"), texture(0), 0.4), Image.new("L", (96, 96))
    ImageDraw.Draw(shape).rectangle((24, 20, 72, 84), fill=255)
    things = [Image.blend(Image.new("RGB", (96, 96), (40, 40, 60)), texture(1 + i), 0.45) for i in range(number)]
    return {f"{'ab'[i % 2]}/{i}.png": Image.composite(thing, ground, shape) for i, thing in enumerate(things)}


def test_things_of_one_shape_on_one_ground_are_no_copies_of_each_other(tmp_path):
    images = silhouettes(30)
    write(tmp_path, images | {"b/copy.png": FAULTS["brighter by 20 %"](images["a/0.png"])})
    table = read_table(tmp_path, Preprocessing(64), SplitPlan(), "memory")
    grey = make_thumbnails(table).grey
    assert (similarities(grey, find_candidates(grey)) > ALIKE).sum() > 10  # at first sight
    assert pairs_of(tmp_path) == {("0", "copy"): "near"}


def test_copies_elsewhere_are_found_beside_a_crowd(tmp_path):
    frames = [Image.blend(texture(0), texture(1 + i), 0.4) for i in range(60)]
    write(tmp_path, {f"{'ab'[i % 2]}/frame{i}.png": image for i, image in enumerate(frames)})
    write(tmp_path, {f"a/{i}.png": texture(i) for i in range(100, 115)})
    write(tmp_path, {f"b/copy{i}.png": texture(i).crop((3, 3, 93, 93)) for i in range(100, 115)})
    assert pairs_of(tmp_path) == {(str(i), f"copy{i}"): "near" for i in range(100, 115)}


def test_of_pictures_that_are_all_alike_a_few_pairs_of_each_are_looked_at():
    rng = np.random.default_rng(0)
    grey = np.asarray(texture(0, 64).convert("L"))[None] + rng.integers(-9, 10, (1500, 64, 64))
    candidates = find_candidates(grey.clip(0, 255).astype(np.uint8))
    pairs = np.stack([candidates.first, candidates.second], 1)
    assert 1500 < len(pairs) <= 1500 * len(VIEWS) * NEIGHBOURS
    assert 1500 < _among_the_closest(pairs).sum() <= 1500 * CLOSEST


def test_flat_and_damaged_and_very_small_images_are_no_near_duplicates(textures):
    write(textures, {f"a/flat{n}.png": Image.new("RGB", (64, 64), (n, n, n)) for n in (100, 101)})
    write(textures, {f"a/digit{n}.png": texture(0).resize((8, 8 + n)) for n in (0, 1)})
    file = io.BytesIO()
    texture(0).save(file, "PNG")
    for name in ("a/cut1.png", "a/cut2.png"):
        (textures / name).write_bytes(file.getvalue()[:-200])
    assert pairs_of(textures) == {}


def test_features_are_equal_in_all_orientations():
    images = np.random.default_rng(0).normal(size=(3, FREQUENCIES, FREQUENCIES)).astype(np.float32)
    signs = (-1.0) ** np.arange(FREQUENCIES)
    for swap, rows, columns in ORIENTATIONS:
        changed = images.transpose(0, 2, 1) if swap else images
        changed = changed * (signs[:, None] if rows else 1) * (signs if columns else 1)
        np.testing.assert_allclose(invariants(changed), invariants(images), atol=1e-5)


def test_candidates_say_how_to_turn_the_first_image():
    grey = np.stack([np.asarray(texture(i, 64).convert("L")) for i in range(12)])
    mirrored = np.concatenate([grey, grey[:1, :, ::-1]])
    found = find_candidates(mirrored)
    index = int(np.flatnonzero((found.first == 12) & (found.second == 0) & (found.views == 0))[0])
    np.testing.assert_array_equal(turned(mirrored[12:], int(found.orientations[index]))[0], grey[0])


def test_index_of_many_vectors_finds_the_nearest():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6000, 16)).astype(np.float32)
    queries = vectors[:500] + rng.normal(scale=0.05, size=(500, 16)).astype(np.float32)
    index = NeighbourIndex(vectors)
    distances, rows = index.search(queries, 3)
    assert len(index.lists) == 77
    assert (rows[:, 0] == np.arange(500)).mean() > 0.99
    np.testing.assert_allclose(distances[0, 0], ((queries[0] - vectors[0]) ** 2).sum(), rtol=1e-2)


def test_blurs_have_no_weights_that_are_slow_to_calculate_with():
    for weights in (FINE, COARSE):
        assert weights[weights > 0].min() > 1e-7
        np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)


def test_chains_of_pairs_are_one_group():
    assert len(set(connected([(0, 1), (1, 4)], 5)[[0, 1, 4]])) == 1
    assert len(set(connected([], 3))) == 3


@pytest.mark.skipif(not (REAL_DATA / "sneakers").is_dir(), reason="no photographs at hand")
def test_sneakers_have_three_pairs_of_copies():
    pairs = pairs_of(REAL_DATA / "sneakers", 112)
    assert ("233", "37") in pairs  # in train and in test, cropped otherwise
    assert len(pairs) == 3


def test_thumbnails_are_never_copied_as_a_whole(monkeypatch):
    monkeypatch.setattr(search, "BLOCK", 64)  # of images in memory at a time
    grey = np.random.default_rng(0).integers(0, 256, (1500, 64, 64), np.uint8)
    tracemalloc.start()
    try:
        find_candidates(grey)
        assert tracemalloc.get_traced_memory()[1] < grey.nbytes
    finally:
        tracemalloc.stop()
