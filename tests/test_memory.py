"""Lack of memory is an error that names what to lower, and `auto` finds the batch that fits."""

import subprocess
import sys

import pytest
import torch

from imgbench.data.pixels import decode_images
from imgbench.data.scan import scan
from imgbench.errors import UserError
from imgbench.preprocessing import Preprocessing
from imgbench.training import memory
from imgbench.training.checkpoint import load_classifier
from imgbench.training.memory import bytes_per_image, lack_of_memory_named, largest_batch


@pytest.mark.parametrize(
    "error", [MemoryError("too much"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
              torch.OutOfMemoryError("CUDA out of memory. Tried")],
)  # fmt: skip
def test_full_memory_names_the_option_that_lowers_it(error):
    with pytest.raises(UserError, match=r"data\.batch_size=32 \(or auto\)"), lack_of_memory_named(64):
        raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shape"), lack_of_memory_named(64):
        raise RuntimeError("a shape")


def test_tensor_that_is_too_large_is_such_an_error():
    with pytest.raises(UserError, match="The memory is full"), lack_of_memory_named(8):
        torch.empty(2**60, dtype=torch.uint8)


def test_what_is_kept_of_each_image_is_counted():
    # The input of the convolution, 3 planes, and its output, 8 planes, which the ReLU keeps.
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU())
    assert bytes_per_image(layers, 16) == 4 * 16 * 16 * (3 + 8)


@pytest.mark.parametrize(("free", "expected"), [(1e12, 256), (0.3, 8), (0.01, None)])
def test_the_largest_batch_that_fits_is_taken(free, expected, tiny_run, monkeypatch):
    classifier = load_classifier(tiny_run.best)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    monkeypatch.setattr(memory, "free_memory", lambda device: 200 * bytes_per_image(classifier, 20) * free)
    if expected is None:
        with pytest.raises(UserError, match=r"data\.batch_size=auto: a single image of 20 pixels"):
            largest_batch(classifier, 20, 10_000, "cpu")
        return
    assert largest_batch(classifier, 20, 10_000, "cpu") == expected
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert largest_batch(classifier, 20, 100, "cpu") == 8


def test_batch_size_auto_is_a_number_in_the_run(make_folder, tmp_path, fit_run):
    run = fit_run(make_folder(tmp_path / "photos", {"a": 30, "b": 30}), tmp_path / "run", "data.batch_size=auto")
    assert run.config["data"]["batch_size"] == 4
    assert run.info["status"] == "finished"


@pytest.mark.parametrize("words", [["data.batch_size=many"], ["data.batch_size=auto", "trainer.devices=2"]])
def test_no_other_word_is_a_batch_size(words, make_folder, tmp_path, train_run):
    with pytest.raises(UserError, match=f"{words[0].replace('.', '[.]')}, but it should be a whole number"):
        train_run(make_folder(tmp_path / "photos", {"a": 8, "b": 8}), tmp_path / "run", *words)


LIMITED = """
import resource, sys
from imgbench.data.pixels import decode_images
from imgbench.data.scan import scan
from imgbench.errors import UserError
from imgbench.preprocessing import Preprocessing
resource.setrlimit(resource.RLIMIT_DATA, (2**31, 2**31))
try:
    decode_images(scan(sys.argv[1]), Preprocessing(8192), "memory")
except UserError as error:
    sys.exit(str(error))
"""


def test_images_that_the_memory_limit_does_not_hold_name_the_options(make_folder, tmp_path):
    folder = make_folder(tmp_path, {"cat": 8, "dog": 8})
    done = subprocess.run([sys.executable, "-c", LIMITED, str(folder)], capture_output=True, text=True, check=False)
    assert "data.cache=memory: the decoded images take 3.2 GB" in done.stderr
    assert "data.cache=disk, off, or a smaller data.image_size" in done.stderr


def test_more_than_the_machine_has_is_refused_at_once(make_folder, tmp_path, monkeypatch):
    found = scan(make_folder(tmp_path, {"cat": 8, "dog": 8}))
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    with pytest.raises(UserError, match=r"not so much memory, but 0\.0 GB"):
        decode_images(found, Preprocessing(16), "memory")
