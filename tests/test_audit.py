"""The audit as a command, on folders with planted faults."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from imgbench.audit import EXIT_CODES
from imgbench.audit import audit as audit_command
from imgbench.experiment.compose import compose


def paint(root: Path, counts: dict[str, int], size: int = 64) -> Path:
    """Pictures of a few blurred shapes, so that no two are alike, one class brighter than the other."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            image = coarse.resize((size, size), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))
            image.save(root / name / f"{name}{number}.png")
    return root


@pytest.fixture
def photos(tmp_path):
    return paint(tmp_path / "photos", {"cat": 30, "dog": 30})


def inspect(root: Path, *words: str):
    return audit_command(compose(["data=folder", f"data.root={root}", "data.image_size=64", *words]))


def test_pictures_without_relatives_do_not_leak(photos):
    result = inspect(photos)
    assert result.verdict != "leaks"
    assert result.pairs == []
    assert result.images == 60


def test_copies_are_found_named_and_counted_as_leaks(photos):
    for number in range(12):  # turned, so that the bytes differ
        turned = Image.open(photos / "cat" / f"cat{number}.png").transpose(Image.Transpose.ROTATE_90)
        turned.save(photos / "cat" / f"turned{number}.png")
    result = inspect(photos)
    pairs = {tuple(sorted(Path(path).stem for path in pair["paths"])) for pair in result.pairs}
    assert pairs == {(f"cat{number}", f"turned{number}") for number in range(12)}
    assert result.verdict == "leaks"


def test_automatic_groups_keep_copies_on_one_side(photos):
    for number in range(12):
        shutil.copy(photos / "cat" / f"cat{number}.png", photos / "cat" / f"again{number}.png")
    result = inspect(photos, "data.split.group=auto")
    assert len(result.pairs) == 12
    assert result.leaking == {}
    assert all(len(set(pair["splits"])) == 1 for pair in result.pairs)


def test_exit_code_tells_a_script_what_was_found(photos, tmp_path):
    line = [sys.executable, "-m", "imgbench.audit", "data=folder", f"data.root={photos}", "data.image_size=64"]
    done = subprocess.run([*line, "hydra.run.dir=out"], cwd=tmp_path, capture_output=True, text=True, check=False)
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert done.returncode == EXIT_CODES[found["verdict"]], done.stderr
    assert f"Audit: {found['verdict']}" in done.stdout
    assert "Always answering" in done.stdout
