"""What one reading of each file tells, and when it is read again."""

import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from made_files import profile
from PIL import Image

from imgbench.data.look import SIDE, Header, Looks, cache_dir, digest, keep_looks, kept_looks
from imgbench.data.pixels import decode_images
from imgbench.data.read import read_table
from imgbench.data.scan import scan
from imgbench.data.shards import Folder
from imgbench.data.split import SplitPlan
from imgbench.data.table import ImageTable
from imgbench.decode import open_image
from imgbench.inspection.file_facts import read_headers
from imgbench.inspection.shortcuts import file_facts
from imgbench.inspection.thumbnails import make_thumbnails
from imgbench.intensity import Extremes
from imgbench.preprocessing import Preprocessing


@pytest.fixture
def folder(tmp_path, make_folder) -> Path:
    root = make_folder(tmp_path / "photos", {"cat": 4, "dog": 4}, size=(80, 70))
    (root / "cat" / "cut.png").write_bytes((root / "cat" / "0.png").read_bytes()[:-200])
    return root


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of the photographs that are opened from now on."""
    names: list[str] = []
    open_path = Path.open

    def opening(self, *args, **options):
        names.append(self.name)
        return open_path(self, *args, **options)

    monkeypatch.setattr(Path, "open", opening)
    return names


def photographs(names: list[str]) -> list[str]:
    return sorted(name for name in names if name.endswith((".png", ".jpg")))


NONE = np.zeros(1, np.int32)


def looked_at(found: ImageTable) -> Looks:
    looks = Looks.none_yet(found)
    for row in range(len(found.paths)):
        looks.look(row, found.read(row))
    return looks


def test_a_look_tells_hash_header_thumbnail_and_damage(folder):
    found = scan(folder)
    looks = looked_at(found)
    for row, path in enumerate(found.paths):
        data = (folder / path).read_bytes()
        assert looks.digests[row].tobytes() == digest(data)
        if path == "cat/cut.png":
            assert row in looks.errors
            assert looks.header(row) is None
        else:
            assert looks.header(row) == Header("PNG", "RGB", 80, 70)
            square = Preprocessing(SIDE).square(open_image(data))
            assert np.array_equal(looks.grey[row], np.asarray(Image.fromarray(square).convert("L")))
            assert looks.facts["shown"][row].tobytes() == digest(square.tobytes())


def test_a_thumbnail_in_colour_has_the_colours_of_the_image_and_its_brightness(tmp_path):
    coarse = np.random.default_rng(0).integers(0, 256, (3, 3, 3), np.uint8)
    Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    file = ImageTable(tmp_path, ["a"], ["a.png"], NONE, NONE, np.zeros((1, 4), np.int64), Folder(tmp_path))
    looks = looked_at(file)
    (square,) = looks.squares(np.array([0]))
    expected = Preprocessing(SIDE).decode(tmp_path / "a.png").astype(int)
    assert np.abs(square - expected).mean() < 0.15 * np.abs(looks.grey[0][..., None] - expected).mean()
    assert np.abs(np.asarray(Image.fromarray(square).convert("L")).astype(int) - looks.grey[0]).mean() < 2


@pytest.mark.parametrize("sides", [(1600, 1600), (1601, 1600), (6000, 4000), (40, 30)])
@pytest.mark.parametrize("size", [64, 100, 224])
@pytest.mark.parametrize("decoding", [1, 3, 4])
def test_the_pixels_made_beside_a_look_are_those_of_decoding_alone(tmp_path, sides, size, decoding):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).resize(sides).save(tmp_path / "a.jpg", quality=80, icc_profile=profile("Adobe RGB"))
    data = (tmp_path / "a.jpg").read_bytes()
    looks = Looks.none_yet(
        ImageTable(tmp_path, ["a"], ["a.jpg"], NONE, NONE, np.zeros((1, 4), np.int64), Folder(tmp_path))
    )
    settings = Preprocessing(size, decoding=decoding)
    square = looks.look(0, data, settings)
    assert square is not None
    assert np.array_equal(square, settings.decode(data))
    thumbnail = Preprocessing(SIDE, decoding=3).decode(data)  # at reduced size, whatever the network sees
    assert np.array_equal(looks.grey[0], np.asarray(Image.fromarray(thumbnail).convert("L")))


def test_a_cold_folder_is_opened_once_for_pixels_headers_thumbnails_and_probes(folder, opened):
    table = read_table(folder, Preprocessing(16), SplitPlan(), find_groups=lambda table: (
        make_thumbnails(table) and table.paths
    ))  # fmt: skip
    read_headers(table)
    make_thumbnails(table)
    file_facts(table, table.rows("train"))
    assert photographs(opened) == sorted(Path(path).name for path in table.paths)


def test_another_size_reads_no_file_twice_and_an_audit_of_it_none(folder, opened):
    decode_images(scan(folder), Preprocessing(16))
    opened.clear()
    other = decode_images(scan(folder), Preprocessing(20))
    assert len(photographs(opened)) == 9
    opened.clear()
    assert decode_images(scan(folder), Preprocessing(20), "off").known is not None
    assert photographs(opened) == []
    assert other.errors.keys() == {4}


def test_looks_that_are_known_lie_in_memory_once(tmp_path):
    paths = [f"{number}.png" for number in range(2000)]
    nothing = np.zeros(len(paths), np.int32)
    table = ImageTable(
        tmp_path, ["a"], paths, nothing, nothing.astype(np.int8), np.ones((len(paths), 4), np.int64), Folder(tmp_path)
    )
    own = Looks.none_yet(table)
    keep_looks(table, own)
    tracemalloc.start()
    try:
        assert not kept_looks(table, table.read).fresh.any()
        assert tracemalloc.get_traced_memory()[1] < 1.6 * own.grey.nbytes
    finally:
        tracemalloc.stop()


def test_only_what_has_changed_is_looked_at_again(folder):
    found = scan(folder)
    keep_looks(found, looked_at(found))
    (folder / "dog" / "3.png").write_bytes((folder / "dog" / "2.png").read_bytes())
    (folder / "dog" / "new.png").write_bytes((folder / "dog" / "2.png").read_bytes())
    again = scan(folder)
    looks = kept_looks(again, again.read)
    assert {again.paths[row] for row in np.flatnonzero(looks.fresh)} == {"dog/3.png", "dog/new.png"}
    assert looks.errors.keys() == {4}


def test_looks_at_some_files_leave_those_at_the_others(folder):
    found = scan(folder)
    keep_looks(found, looked_at(found))
    some = scan(folder).take(range(3))
    (folder / "dog" / "0.png").unlink()
    keep_looks(some, looked_at(some))
    again = scan(folder)
    assert not kept_looks(again, again.read).fresh.any()


@pytest.mark.parametrize("damage", [b"", b"damaged", None])
def test_damaged_looks_are_made_anew(folder, cache_home, caplog, damage):
    first = decode_images(scan(folder), Preprocessing(16))
    (place,) = (cache_home / "looks").iterdir()
    place.write_bytes(place.read_bytes()[:-300] if damage is None else damage)
    again = decode_images(scan(folder), Preprocessing(16))
    assert "is damaged" in caplog.text
    assert np.array_equal(again.digests, first.digests)
    caplog.clear()
    decode_images(scan(folder), Preprocessing(16))
    assert caplog.text == ""


def test_images_of_more_than_8_bits_are_scaled_by_the_range_of_all(tmp_path, opened):
    for name, high in (("cat", 4000), ("dog", 1000)):
        (tmp_path / name).mkdir()
        for number in range(4):
            values = np.linspace(0, high - number, 400).astype(np.uint16).reshape(20, 20)
            Image.fromarray(values).save(tmp_path / name / f"{number}.png")
    table = read_table(tmp_path, Preprocessing(16), SplitPlan())
    assert table.intensity == (0.0, 4095.0)
    assert table.looks.extremes()[0] == Extremes(0, 4000, False, False, 0, 4000)
    grey = make_thumbnails(table).grey
    assert grey[:4].max() > 240
    assert 50 < grey[4:].max() < 70
    opened.clear()
    again = read_table(tmp_path, Preprocessing(16), SplitPlan())
    assert photographs(opened) == []
    assert again.pixels is not None and table.pixels is not None
    assert np.array_equal(again.pixels, table.pixels)
    assert again.intensity == table.intensity


@pytest.mark.skipif(os.name != "posix", reason="other systems refuse such names")
def test_names_that_are_not_unicode_are_kept(folder):
    (folder / "cat" / "0.png").rename(os.fsdecode(os.fsencode(folder / "cat") + b"/caf\xe9.png"))
    decode_images(scan(folder), Preprocessing(16))
    again = scan(folder)
    assert not kept_looks(again, again.read).fresh.any()


@pytest.mark.skipif(sys.platform == "win32", reason="users have a home there")
def test_a_user_without_a_home_has_a_cache_for_as_long_as_the_process_lives(monkeypatch, caplog):
    def nobody(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_CACHE_HOME", "IMGBENCH_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    place = cache_dir()
    assert place.is_dir()
    assert cache_dir() == place
    assert "IMGBENCH_CACHE=DIR" in caplog.text
