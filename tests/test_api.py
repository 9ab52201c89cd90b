"""What Python calls: functions that do what the commands do, and runs that a notebook shows."""

import base64
import json
import logging
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from commands import forked

import imgbench
from imgbench import api
from imgbench.errors import UserError

SMALL = ["data.image_size=20", "data.batch_size=4", "augment=none", "optimizer=adam", "scheduler=constant"]


def train_photos():
    imgbench.train("photos, 2024", model="cnn", seed=3, overrides=[*SMALL, "trainer.max_epochs=2"])


@pytest.fixture(scope="module")
def trained(make_folder, tmp_path_factory):
    """A run of two epochs, what its training printed, and the photographs."""
    home = tmp_path_factory.mktemp("api")
    photos = make_folder(home / "photos, 2024", {"cat": 12, "dog": 12})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGBENCH_CACHE", str(home / "cache"))
        patch.chdir(home)
        done = forked(train_photos)
    (path,) = home.glob("outputs/*/cnn/*")
    return imgbench.Run.open(path), done, photos


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the run, which a test may change."""
    shutil.copytree(trained[0].path, tmp_path / "run")
    return imgbench.Run(tmp_path / "run")


@pytest.fixture
def mistaken(copied):
    """A run that takes the first two cats of its test images for dogs."""
    file = copied.path / "predictions.csv"
    header, *lines = file.read_text("utf-8").splitlines()
    cats = [line.split(",")[0] for line in lines if line.startswith("cat/")][:2]
    rest = [line for line in lines if line.split(",")[0] not in cats]
    right = []
    for path, group, target, *_ in (line.split(",") for line in rest):
        right.append(",".join([path, group, target, target, *(("1", "0") if target == "cat" else ("0", "1"))]))
    wrong = [f"{cats[0]},,cat,dog,0.4,0.6", f"{cats[1]},,cat,dog,0.1,0.9"]
    file.write_text("\n".join([header, *right, *wrong]) + "\n", "utf-8")
    return copied, cats


def test_the_function_stays_when_the_command_is_imported_before_or_after_it(tmp_path):
    scripts = []
    for name in ("train", "study", "audit", "compare"):
        scripts.append(f"""
import importlib, sys
if len(sys.argv) > 1:
    from imgbench.{name} import main
import imgbench
function = imgbench.{name}
import imgbench.{name}
from imgbench.{name} import {name}, main
assert imgbench.{name} is function is not {name}
assert function.__module__ == "imgbench.api" and {name}.__module__ == "imgbench.{name}"
assert importlib.import_module("imgbench.{name}").main is main
from imgbench import {name} as again
assert again is function
assert "torch" not in sys.modules
""")
    script = "".join(scripts)
    for order in ([], ["the command first"]):
        subprocess.run([sys.executable, "-c", script, *order], cwd=tmp_path, check=True)


def test_importing_imgbench_imports_no_torch(tmp_path):
    check = "import sys, imgbench; assert not {'torch', 'hydra', 'numpy', 'matplotlib'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], cwd=tmp_path, check=True)


def test_training_prints_a_line_per_epoch_and_nothing_else_on_stderr(trained):
    _, done, _ = trained
    assert re.findall(r"^epoch (\d)/2 ", done.stdout, re.MULTILINE) == ["1", "2"]
    assert done.stderr == ""


def test_run_repeats_by_the_command_in_its_run_json(trained):
    run, _, _ = trained
    command = run.info["command"]
    assert command.startswith("python -m imgbench.train data=folder ")
    assert "'data.root=\"photos, 2024\"'" in command
    assert "seed=3" in command
    assert run.config["seed"] == 3
    assert Path(run.config["data"]["root"]).name == "photos, 2024"


def test_metrics_are_numbers_by_name_and_shown_as_a_table(trained):
    run, _, _ = trained
    stored = json.loads((run.path / "metrics.json").read_text("utf-8"))
    assert run.metrics.keys() == stored.keys()
    assert re.search(r"^test/acc +\d+\.\d %", repr(run.metrics), re.MULTILINE)
    assert "test/recall/cat" not in repr(run.metrics)
    assert '<td style="text-align:left">test/acc</td>' in run.metrics._repr_html_()


def test_predictions_and_predict_agree(trained, copied):
    found = copied.predictions
    answers = copied.predict([trained[2] / path for path in found.paths])
    assert [answer.label for answer in answers] == [found.class_names[i] for i in found.predicted]
    assert imgbench.load(copied).class_names == found.class_names


def test_report_is_shown_where_its_script_reaches_nothing_of_the_notebook(copied):
    (copied.path / "report.html").write_text('<p title="a">5 < 6</p>"><script>alert(1)</script>', "utf-8")
    shown = copied.report._repr_html_()
    assert shown.count("<") == 2, "one element, and nothing that gets out of it"
    assert 'sandbox="allow-scripts"' in shown
    assert "&lt;script&gt;" in shown


def test_mistakes_come_with_their_photographs_the_most_confident_first(mistaken):
    run, cats = mistaken
    mistakes = run.mistakes()
    assert [(m.path, m.label, m.predicted) for m in mistakes] == [(cats[1], "cat", "dog"), (cats[0], "cat", "dog")]
    assert mistakes[0].probability == pytest.approx(0.9)
    assert mistakes._repr_html_().count('<img src="data:image/') == 2
    assert re.search(rf"^{re.escape(cats[1])} +cat taken for dog +90\.0 %$", repr(mistakes), re.MULTILINE)
    assert [m.path for m in run.mistakes(1)] == [cats[1]]


def test_mistakes_show_no_photograph_where_the_run_shall_show_none(mistaken):
    run, _ = mistaken
    run.write_config({**run.stored_config, "data": {**run.stored_config["data"], "thumbnails": "off"}})
    assert "<img" not in run.mistakes()._repr_html_()
    assert len(run.mistakes()) == 2


def test_mistakes_read_no_file_outside_the_folder_of_the_data(mistaken, trained):
    run, cats = mistaken
    path = run.path / "predictions.csv"
    outside = f"../{trained[2].name}/{cats[0]}"
    assert (trained[2] / outside).is_file()
    path.write_text(path.read_text("utf-8").replace(cats[0], f'"{outside}"'), "utf-8")
    assert run.mistakes()._repr_html_().count("<img") == 1


def test_a_run_without_mistakes_says_so(mistaken):
    run, _ = mistaken
    path = run.path / "predictions.csv"
    path.write_text("\n".join(path.read_text("utf-8").splitlines()[:-2]) + "\n", "utf-8")
    assert repr(run.mistakes()) == run.mistakes()._repr_html_() == "No mistake."


def test_one_epoch_makes_no_curve(copied):
    assert copied.curves()._repr_png_().startswith(b"\x89PNG")
    path = copied.path / "metrics.csv"
    path.write_text("\n".join(path.read_text("utf-8").splitlines()[:2]) + "\n", "utf-8")
    assert copied.curves() is None


def test_confusion_is_a_picture(copied):
    assert copied.confusion()._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("ask", ["metrics", "predictions", "report"])
def test_a_run_that_has_no_results_names_what_goes_on(copied, ask):
    copied.forget_results()
    with pytest.raises(UserError, match=r"has no \w+\.\w+; its status is 'finished'.*\n?.*--resume"):
        getattr(copied, ask)


@pytest.mark.parametrize(
    ("name", "content"),
    [("metrics.json", "[1,\n"), ("predictions.csv", "path,group,target,predicted,cat\na,,dog,cat,1\n")],
)
def test_a_damaged_file_is_named(copied, name, content):
    (copied.path / name).write_text(content, "utf-8")
    with pytest.raises(UserError, match=f"{name} is damaged"):
        getattr(copied, name.partition(".")[0])


def test_a_user_error_shows_its_message_in_a_notebook_and_no_stack():
    assert UserError("data='x': there is none")._render_traceback_() == ["Error: data='x': there is none"]


def test_data_that_are_not_there_name_the_choices(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data='photo': there is no such folder.*\n?.*digits"):
        imgbench.train("photo")


def test_a_target_of_a_study_is_one_text_and_said_to_be_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="target='small, and fast'"):
        imgbench.study(target="small, and fast")
    assert not list(tmp_path.iterdir())


def test_overrides_are_a_list():
    with pytest.raises(UserError, match=r"overrides=\['seed=1'\]"):
        imgbench.audit(overrides="seed=1")


def test_a_word_that_is_none_is_a_user_error():
    with pytest.raises(UserError, match=r"optimiser: the configuration has no such entry|optimiser\.lr"):
        imgbench.train(overrides=["optimiser.lr=1"])


@pytest.mark.parametrize("name", ["2024", "true", "1e3", "a, b", 'say "a"', "[1", "x=y"])
def test_a_folder_may_have_any_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    config = api._composed(api._data_words(name), "train")
    assert config.data.root == name


def test_a_name_of_conf_is_the_configuration_and_a_path_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert api._data_words("digits") == ["data=digits"]
    assert api._data_words(Path("digits")) == ["data=folder", 'data.root="digits"']


def test_an_audit_leaves_its_page_and_the_process_as_it_was(make_folder, tmp_path, capsys):
    photos = make_folder(tmp_path / "photos", {"cat": 6, "dog": 6})
    logger = logging.getLogger("imgbench")

    def state():
        return logger.level, logger.propagate, list(logger.handlers), list(warnings.filters)

    before = state()
    result = imgbench.audit(photos, output=tmp_path / "audit")
    assert state() == before
    assert (tmp_path / "audit" / "audit.html").is_file()
    assert repr(result) == f"<Audit of 12 images: {result.verdict}, {len(result.findings)} findings>"
    assert result.summary() in capsys.readouterr().out


def test_a_comparison_takes_runs_and_prints_its_table(copied, tmp_path, capsys):
    other = imgbench.Run(tmp_path / "other")
    shutil.copytree(copied.path, other.path)
    other.write_config({**copied.stored_config, "model_name": "another"})
    result = imgbench.compare([copied, other], output=tmp_path / "comparison")
    assert [len(one.runs) for one in result.configurations] == [1, 1]
    assert "test accuracy, %" in capsys.readouterr().out
    assert (tmp_path / "comparison" / "comparison.csv").is_file()
    assert repr(result) == f"<Comparison of {', '.join(one.name for one in result.configurations)}>"


def test_a_picture_of_a_photograph_is_small(trained):
    address = re.findall(r'src="data:image/png;base64,([^"]+)"', api._thumbnail(trained[2] / "cat" / "0.png"))
    assert base64.b64decode(address[0]).startswith(b"\x89PNG")


def test_an_interrupted_run_goes_on_and_a_finished_one_says_so(copied, capsys):
    assert imgbench.train(resume=copied) == copied
    assert "nothing is left to do" in capsys.readouterr().out
    run = imgbench.train(resume=copied.path, overrides=["trainer.max_epochs=3"])
    assert run == copied
    assert re.findall(r"^epoch (\d)/3 ", capsys.readouterr().out, re.MULTILINE) == ["3"]
    assert len((run.path / "metrics.csv").read_text("utf-8").splitlines()) == 4
    assert run.status == "finished"
    assert f"--resume {run.shown} trainer.max_epochs=3" in run.info["command"]
    with pytest.raises(UserError, match="no study"):
        imgbench.study(resume=run)
