"""What `pip wheel .` gives works without the clone that it was made from."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*words: object, folder: Path, **environment: str) -> str:
    line = [sys.executable, "-m", *map(str, words)]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_study_runs_from_the_wheel_away_from_the_clone(tmp_path, make_folder):
    site = tmp_path / "site"
    run("pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, ROOT, folder=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    run("pip", "install", "--no-deps", "--no-index", "--target", site, wheel, folder=tmp_path)
    make_folder(tmp_path / "photos", {"cat": 40, "dog": 40})
    small = ["model=compact", "data.image_size=20", "data.batch_size=8", "trainer.max_epochs=2", "target=drop<=100pt"]
    words = ["data=folder", "data.root=photos", *small, "hydra.run.dir=result"]
    printed = run("imgbench", "study", *words, folder=tmp_path, PYTHONPATH=str(site))
    assert "Report         result/report.html" in printed
    assert {"report.html", "small.onnx", "metrics.json"} <= {path.name for path in (tmp_path / "result").iterdir()}
    code = "import imgbench.run; print(imgbench.run.CONF)"
    place = subprocess.check_output(
        [sys.executable, "-c", code], cwd=tmp_path, text=True, env={**os.environ, "PYTHONPATH": str(site)}
    )
    assert Path(place.strip()) == site / "imgbench" / "conf"
    assert (site / "imgbench" / "py.typed").is_file()


def test_the_package_says_what_it_is():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {"Typing :: Typed", "Intended Audience :: Science/Research"} <= set(project["classifiers"])
    assert "image-classification" in project["keywords"]
