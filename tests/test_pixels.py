import errno
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgbench.data.look import Looks
from imgbench.data.pixels import decode_images, digest
from imgbench.data.read import labelled_table
from imgbench.data.scan import scan
from imgbench.decode import open_image
from imgbench.errors import EXTRAS, UserError
from imgbench.preprocessing import Preprocessing

SMALL = Preprocessing(16)


@pytest.fixture
def folder(tmp_path, make_folder):
    return make_folder(tmp_path / "photos", {"cat": 4, "dog": 4})


def entries(cache_home):
    return sorted(path.name for path in (cache_home / "images").iterdir())


def pixels_of(result):
    assert result.pixels is not None
    return result.pixels


def test_decoding_hashes_and_decodes_every_image_in_order(folder):
    found = scan(folder)
    result = decode_images(found, SMALL)
    assert result.errors == {}
    for row, path in enumerate(found.paths):
        data = (folder / path).read_bytes()
        assert result.digests[row].tobytes() == digest(data)
        assert np.array_equal(pixels_of(result)[row], SMALL.square(open_image(data)))


@pytest.mark.parametrize("mode", ["auto", "disk", "off"])
def test_a_second_run_reads_back_without_decoding(folder, mode):
    (folder / "cat" / "damaged.jpg").write_bytes(b"no image")
    first = decode_images(scan(folder), SMALL, mode)
    found = scan(folder)
    shutil.rmtree(folder)
    second = decode_images(found, SMALL, mode)
    assert second.errors == first.errors == {4: "not an image"}
    assert np.array_equal(second.digests, first.digests)
    if mode == "off":
        assert first.pixels is second.pixels is None
    else:
        good = [row for row in range(9) if row != 4]
        assert np.array_equal(pixels_of(second)[good], pixels_of(first)[good])


def test_memory_disk_and_off_agree(folder, cache_home):
    found = scan(folder)
    memory = decode_images(found, SMALL, "memory")
    assert not (cache_home / "images").exists(), "memory leaves nothing on disk"
    disk, off = decode_images(found, SMALL, "disk"), decode_images(found, SMALL, "off")
    assert np.array_equal(pixels_of(memory), pixels_of(disk))
    assert off.pixels is None
    assert np.array_equal(memory.digests, disk.digests)
    assert np.array_equal(memory.digests, off.digests)


def test_an_unknown_mode_is_an_error_naming_the_modes(folder):
    with pytest.raises(UserError, match=r"data\.cache='ram', but it is one of auto, memory, disk, off"):
        decode_images(scan(folder), SMALL, "ram")


def change(folder):
    Image.new("RGB", (9, 9), "teal").save(folder / "cat" / "0.png")


def touch(folder):
    os.utime(folder / "cat" / "0.png", ns=(1, 1))


def add(folder):
    Image.new("RGB", (9, 9), "teal").save(folder / "dog" / "9.png")


def remove(folder):
    (folder / "dog" / "3.png").unlink()


def rename(folder):
    (folder / "dog" / "3.png").rename(folder / "dog" / "33.png")


@pytest.mark.parametrize("event", [change, touch, add, remove, rename])
@pytest.mark.parametrize("mode", ["disk", "off"])
def test_a_changed_folder_is_noticed_and_its_old_entry_deleted(folder, cache_home, mode, event):
    decode_images(scan(folder), SMALL, mode)
    before = entries(cache_home)
    event(folder)
    found = scan(folder)
    result = decode_images(found, SMALL, mode)
    after = entries(cache_home)
    assert len(before) == len(after) == (1 if mode == "disk" else 0)
    assert (before != after) == (mode == "disk" and event not in (touch, rename)), "the same content is the same entry"
    assert [row.tobytes() for row in result.digests] == [digest((folder / path).read_bytes()) for path in found.paths]


def classes_exchanged(folder: Path) -> None:
    """Two classes of files of one size and one modification time, renamed into each other."""
    for name, grey in (("dark", 20), ("light", 220)):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            path = folder / name / f"{number}.bmp"
            Image.new("L", (16, 16), grey + number).save(path)
            os.utime(path, ns=(1, 1))
    decode_images(scan(folder), SMALL)
    (folder / "dark").rename(folder / "other")
    (folder / "light").rename(folder / "dark")
    (folder / "other").rename(folder / "light")


@pytest.mark.parametrize("proof", [True, False])
@pytest.mark.parametrize("mode", ["disk", "off"])
def test_classes_renamed_into_each_other_are_decoded_anew(tmp_path, monkeypatch, mode, proof):
    for module in ("walk", "look"):  # as on a system that has neither inodes nor times of change
        monkeypatch.setattr(f"imgbench.data.{module}.STAMPS_PROVE_CONTENT", proof and os.name == "posix")
    folder = tmp_path / "photos"
    classes_exchanged(folder)
    found = scan(folder)
    result = decode_images(found, SMALL, mode)
    assert [row.tobytes() for row in result.digests] == [digest((folder / path).read_bytes()) for path in found.paths]
    if mode == "disk":
        assert pixels_of(result)[:, 0, 0, 0].tolist() == [220, 221, 222, 223, 20, 21, 22, 23]


def test_where_stamps_prove_nothing_what_has_not_changed_is_still_read_back(folder, cache_home, monkeypatch):
    for module in ("walk", "look"):
        monkeypatch.setattr(f"imgbench.data.{module}.STAMPS_PROVE_CONTENT", False)
    decode_images(scan(folder), SMALL)
    monkeypatch.setattr(Preprocessing, "square", None)
    assert decode_images(scan(folder), SMALL).errors == {}
    assert len(entries(cache_home)) == 1


@pytest.mark.parametrize("available", [1 << 40, 1])
def test_an_evaluation_sees_what_the_files_hold_now_and_leaves_the_entries_of_a_training(
    folder, cache_home, monkeypatch, available
):
    for mode in ("disk", "off"):
        decode_images(scan(folder), SMALL, mode)
    before = entries(cache_home)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": available, "total": 1 << 40}))
    some = scan(folder).take(range(4))
    table = labelled_table(some, "test", SMALL)
    assert (table.pixels is None) == (available == 1)
    change(folder)
    changed = labelled_table(some, "test", SMALL)
    assert changed.digests[0].tobytes() == digest((folder / some.paths[0]).read_bytes()) != table.digests[0].tobytes()
    assert entries(cache_home) == before


def test_other_sizes_and_other_folders_have_entries_beside_each_other(folder, tmp_path, cache_home):
    settings = [SMALL, Preprocessing(20), Preprocessing(16, 20), Preprocessing(12, 24), Preprocessing(16, "pad"),
                Preprocessing(16, "pad", padding=9)]  # fmt: skip
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for root in (folder, copy):
        for preprocessing in settings:
            decode_images(scan(root), preprocessing)
        decode_images(scan(root), SMALL, "off")
    assert len(entries(cache_home)) == 12
    assert len(list((cache_home / "looks").iterdir())) == 2


def test_what_is_cropped_from_the_stored_square_does_not_make_another_entry(folder, cache_home):
    for preprocessing in (Preprocessing(16, 20), Preprocessing(12, 20), Preprocessing(12, 20, mean=(0.5, 0.5, 0.5))):
        decode_images(scan(folder), preprocessing)
    assert len(entries(cache_home)) == 1


def test_a_relative_root_finds_the_entry_of_the_absolute_one(folder, cache_home, monkeypatch):
    decode_images(scan(folder), SMALL)
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr(Preprocessing, "square", None)
    assert decode_images(scan(folder.name), SMALL).errors == {}
    assert len(entries(cache_home)) == 1


@pytest.mark.parametrize("file", ["pixels.npy", "decoded.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut short", "other content"])
def test_a_damaged_entry_is_made_anew(folder, cache_home, caplog, file, damage):
    first = decode_images(scan(folder), SMALL)
    expected = np.array(pixels_of(first))
    path = cache_home / "images" / entries(cache_home)[0] / file
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "cut short": content[: len(content) // 2], "other content": b"damaged"}[damage])
    again = decode_images(scan(folder), SMALL)
    assert "is damaged" in caplog.text
    assert np.array_equal(pixels_of(again), expected)
    assert np.array_equal(again.digests, first.digests)
    caplog.clear()
    decode_images(scan(folder), SMALL)
    assert caplog.text == ""


def test_an_unreadable_file_is_an_error_and_not_remembered_as_damage(folder, cache_home):
    found = scan(folder)
    content = (folder / "cat" / "0.png").read_bytes()
    (folder / "cat" / "0.png").unlink()
    with pytest.raises(UserError, match=r"cat/0.png cannot be read \(No such file or directory\)"):
        decode_images(found, SMALL)
    (folder / "cat" / "0.png").write_bytes(content)
    assert decode_images(found, SMALL).errors == {}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_failure_while_decoding_leaves_nothing_behind(folder, cache_home, monkeypatch, error):
    calls = []

    look = Looks.look

    def fail_at_the_third(self, *args):
        calls.append(args)
        if len(calls) == 3:
            raise error("in the middle")
        return look(self, *args)

    monkeypatch.setattr(Looks, "look", fail_at_the_third)
    with pytest.raises(error, match="in the middle"):
        decode_images(scan(folder), SMALL)
    assert entries(cache_home) == []
    monkeypatch.undo()
    monkeypatch.setenv("IMGBENCH_CACHE", str(cache_home))
    assert decode_images(scan(folder), SMALL).errors == {}


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below"])
@pytest.mark.parametrize("mode", ["auto", "disk", "off"])
def test_a_cache_that_cannot_be_written_falls_back_with_a_warning(folder, tmp_path, monkeypatch, caplog, mode, place):
    expected = decode_images(scan(folder), SMALL, "memory")
    (tmp_path / "file").write_text("where the cache should be")
    monkeypatch.setenv("IMGBENCH_CACHE", str(tmp_path / place))
    result = decode_images(scan(folder), SMALL, mode)
    assert "cannot be written (Not a directory)" in caplog.text
    assert "IMGBENCH_CACHE=DIR moves it" in caplog.text
    assert "damaged" not in caplog.text
    assert np.array_equal(result.digests, expected.digests)
    assert (result.pixels is None) == (mode == "off")
    if mode != "off":
        assert np.array_equal(pixels_of(result), pixels_of(expected))


def test_memory_needs_no_cache_directory(folder, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("IMGBENCH_CACHE", str(tmp_path / "file"))
    assert decode_images(scan(folder), SMALL, "memory").pixels is not None
    assert caplog.text == ""


needs_fallocate = pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve disk space")


@needs_fallocate
def test_a_disk_that_is_full_falls_back_to_memory(folder, cache_home, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    result = decode_images(scan(folder), SMALL, "disk")
    assert "No space left on device" in caplog.text
    assert not isinstance(pixels_of(result), np.memmap)
    assert entries(cache_home) == []


@needs_fallocate
def test_the_disk_space_is_reserved_before_the_first_image_is_decoded(folder, cache_home, monkeypatch):
    used = []

    square = Preprocessing.square

    def look(self, image):
        (file,) = (cache_home / "images").glob(".making-*/pixels.npy")
        used.append((file.stat().st_blocks * 512, file.stat().st_size))
        return square(self, image)

    monkeypatch.setattr(Preprocessing, "square", look)
    decode_images(scan(folder), Preprocessing(128), "disk")
    reserved, needed = used[0]
    assert reserved >= needed > 8 * 128 * 128 * 3


def test_auto_streams_what_would_fill_the_disk_and_disk_does_not(folder, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10000, 0, 10000))  # type: ignore
    assert decode_images(scan(folder), SMALL, "auto").pixels is None
    assert "streaming them instead" in caplog.text
    assert decode_images(scan(folder), SMALL, "disk").pixels is not None


def test_runs_started_at_the_same_time_in_one_process_agree(folder, cache_home, caplog):
    found, start = scan(folder), threading.Barrier(4)

    def work(_):
        start.wait()
        return decode_images(found, SMALL)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(4)))
    assert caplog.text == ""
    for result in results[1:]:
        assert np.array_equal(pixels_of(result), pixels_of(results[0]))
        assert np.array_equal(result.digests, results[0].digests)
    assert len(entries(cache_home)) == 1


def test_runs_started_at_the_same_time_in_two_processes_agree(folder, cache_home):
    code = (
        "import sys; from imgbench.data.pixels import decode_images, digest; from imgbench.data.scan import scan\n"
        "from imgbench.preprocessing import Preprocessing\n"
        "result = decode_images(scan(sys.argv[1]), Preprocessing(16))\n"
        "print(digest(result.pixels.tobytes() + result.digests.tobytes()).hex())"
    )
    command = [sys.executable, "-c", code, str(folder)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    expected = decode_images(scan(folder), SMALL, "memory")
    assert outputs == [digest(pixels_of(expected).tobytes() + expected.digests.tobytes()).hex() + "\n"] * 2
    assert len(entries(cache_home)) == 1


START = """
import os, sys
from imgbench.data.pixels import decode_images
from imgbench.data.scan import scan
from imgbench.preprocessing import Preprocessing
class Stuck(Preprocessing):
    def square(self, image):
        print("decoding", flush=True)
        sys.stdin.read()
decode_images(scan(sys.argv[1]), Stuck(16))
"""


def test_what_a_killed_process_left_is_removed_and_what_another_makes_is_not(folder, cache_home, tmp_path, make_folder):
    line = [sys.executable, "-c", START, str(folder)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        other = make_folder(tmp_path / "other", {"cat": 2, "dog": 2})
        decode_images(scan(other), SMALL)
        assert len(list((cache_home / "images").glob(".making-*"))) == 1
        process.kill()
    decode_images(scan(other), SMALL)
    assert len(entries(cache_home)) == 1


def test_eight_processes_decode_a_cold_folder_once(folder, cache_home):
    code = START.replace("sys.stdin.read()", "return super().square(image)")
    processes = [subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE) for _ in range(8)]
    decoded = [len(process.communicate()[0].splitlines()) for process in processes]
    assert sorted(decoded) == [0] * 7 + [8]
    assert all(process.returncode == 0 for process in processes)
    assert len(entries(cache_home)) == 1


def test_more_images_than_a_chunk_keep_their_rows(tmp_path, make_folder):
    found = scan(make_folder(tmp_path, {"cat": 70, "dog": 70}, size=4))
    result = decode_images(found, Preprocessing(4))
    for row in (0, 63, 64, 127, 128, 139):
        assert np.array_equal(pixels_of(result)[row], np.asarray(Image.open(tmp_path / found.paths[row])))


def save_deep(path, values):
    Image.fromarray(values).save(path)


def test_files_of_more_than_8_bits_get_one_range_for_all(folder, caplog):
    caplog.set_level("INFO")
    dark, bright = np.full((9, 9), 1000, np.uint16), np.full((9, 9), 4000, np.uint16)
    save_deep(folder / "cat" / "deep.png", dark)
    save_deep(folder / "dog" / "deep.tif", bright)
    found = scan(folder)
    for mode in ("memory", "disk", "disk", "off"):
        caplog.clear()
        result = decode_images(found, SMALL, mode)
        assert result.intensity == (0, 4095)
        assert "0 is black and 4095 is white" in caplog.text
        if mode != "off":
            greys = {path: pixels_of(result)[row].max() for row, path in enumerate(found.paths) if "deep" in path}
            assert greys == {"cat/deep.png": round(1000 / 4095 * 255), "dog/deep.tif": round(4000 / 4095 * 255)}


def test_the_values_of_floats_give_their_range(folder):
    save_deep(folder / "cat" / "deep.tif", np.full((9, 9), -7, np.float32))
    save_deep(folder / "dog" / "deep.tif", np.full((9, 9), 9, np.float32))
    found = scan(folder)
    result = decode_images(found, SMALL, "memory")
    assert result.intensity == (-7, 9)
    assert [pixels_of(result)[row].max() for row, path in enumerate(found.paths) if "deep" in path] == [0, 255]


def test_a_stated_range_is_kept_and_has_an_entry_of_its_own(folder, cache_home):
    save_deep(folder / "cat" / "deep.png", np.full((9, 9), 1000, np.uint16))
    assert decode_images(scan(folder), SMALL).intensity == (0, 1023)
    stated = Preprocessing(16, intensity=(0, 2000))
    result = decode_images(scan(folder), stated)
    assert result.intensity == (0, 2000)
    assert pixels_of(result)[4].max() == round(255 / 2)


def test_images_of_8_bits_have_no_range(folder, caplog):
    caplog.set_level("INFO")
    assert decode_images(scan(folder), SMALL).intensity == decode_images(scan(folder), SMALL).intensity == "file"
    assert caplog.text == ""


def test_a_folder_of_nothing_but_damage_is_an_error_with_the_reasons(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"None of the 2 images of .* can be decoded: 2 x not an image"):
        decode_images(scan(tmp_path), SMALL)


def test_heic_without_pillow_heif_is_counted_and_read_once_it_is_installed(folder, cache_home, caplog):
    heif = pytest.importorskip("pillow_heif")
    for name in ("0.heic", "00.heic"):
        heif.from_pillow(Image.new("RGB", (64, 64), "red")).save(folder / "cat" / name)
    found = scan(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXTRAS, "heic", "no_such_package")
        assert len(decode_images(found, SMALL).errors) == 2
    assert '2 files are left out: HEIC, which needs: pip install "imgbench[heic]"' in caplog.text
    assert decode_images(found, SMALL).errors == {}
    assert len(entries(cache_home)) == 1
