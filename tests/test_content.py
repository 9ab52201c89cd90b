"""What the report of a run says, asked of a run: photographs, languages, and the options for both."""

import csv
import re
import shutil

import numpy as np
import pytest
from omegaconf import DictConfig

from imgbench.errors import UserError
from imgbench.experiment.build import build_data_of, resolve_report
from imgbench.experiment.compose import compose
from imgbench.experiment.inspect import inspect_configured
from imgbench.inference.onnx_file import write_onnx
from imgbench.inspection.audit import labels_to_look_at
from imgbench.inspection.labels import LabelReview
from imgbench.inspection.record import audit_of
from imgbench.number import Number
from imgbench.publish.checklists import checklist
from imgbench.publish.paper import contents
from imgbench.publish.paper_facts import facts_of
from imgbench.publish.recorded import Record
from imgbench.report.conclude import conclude
from imgbench.report.content import compared_networks
from imgbench.report.page import ComparedNetwork
from imgbench.run import Run
from imgbench.training.checkpoint import load_classifier

HARD = ["trainer.max_epochs=1", "optimizer.lr=1e-6"]  # so that there are mistakes


@pytest.fixture(scope="module")
def poor_run(run_of) -> Run:
    """A run that has learned nothing, on classes with awkward names."""
    sizes = {"<script>": 24, "叶子": 24, "cat & dog": 24}
    return run_of("poor", sizes, "data.split.test=30", "data.image_size=32", *HARD)


def page_of(run: Run) -> str:
    return (run.path / "report.html").read_text("utf-8")


def test_mistakes_are_shown_with_what_is_like_them_and_without_maps_that_are_no_better_than_chance(poor_run):
    page = page_of(poor_run)
    mistakes = page.partition('<section id="mistakes">')[2].partition("</section>")[0]
    neighbours = page.partition('<section id="neighbours">')[2].partition("</section>")[0]
    assert mistakes.count("<img") > 5
    assert "glows where the photograph speaks most" not in mistakes
    assert "left out, because they are no better than chance" in mistakes
    assert neighbours.count("<img") >= 5 * 5
    assert neighbours.count("<img") % 5 == 0, "each mistake with four neighbours"
    assert "alike 0." in neighbours


def test_what_a_network_looks_at_is_shown_where_it_is_better_than_chance(tiny_run):
    page = page_of(tiny_run)
    assert "glows where the photograph speaks most" in page
    assert "what glows changes the probability of the answer by" in page


def test_names_of_folders_are_text(poor_run):
    page = page_of(poor_run)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "叶子" in page


def test_every_command_of_the_report_names_the_run(poor_run):
    commands = re.findall(r'<code class="command">(.*?)</code>', page_of(poor_run))
    assert len(commands) > 4
    assert all(str(poor_run.path) in line for line in commands)
    assert all(line.startswith("python -m imgbench.") for line in commands)


def test_photographs_are_kept_out_where_they_are_not_wanted(tmp_path, make_folder, train_run):
    root = make_folder(tmp_path / "photos", {"a": 16, "b": 16})
    run = train_run(root, tmp_path / "run", "data.thumbnails=false", *HARD)
    assert "<img" not in page_of(run)
    assert "data:image" not in page_of(run)
    assert not (run.path / "samples.png").exists()
    assert run.config["data"]["thumbnails"] is False


def test_the_language_is_that_of_the_locale_and_stays_with_the_run(tmp_path, make_folder, train_run, monkeypatch):
    root = make_folder(tmp_path / "photos", {"a": 12, "b": 12})
    monkeypatch.setenv("LANGUAGE", "zh_CN")
    run = train_run(root, tmp_path / "run")
    assert "认对了" in page_of(run)
    assert run.config["report"]["language"] == "zh"
    monkeypatch.setenv("LANGUAGE", "en")
    conclude(run, build_data_of(run))
    assert 'lang="zh-CN"' in page_of(run)
    english = train_run(root, tmp_path / "english", "report.language=en")
    assert 'lang="en"' in page_of(english)


def test_a_run_of_before_there_was_a_language_is_concluded_in_that_of_the_locale(tiny_run, tmp_path):
    run = Run(tmp_path / "run")
    run.path.mkdir()
    for name in ("split.csv", "run.json", "metrics.csv", "checkpoints"):
        (run.path / name).symlink_to(tiny_run.path / name)
    config = tiny_run.stored_config
    del config["report"], config["data"]["thumbnails"]
    run.write_config(config)
    conclude(run, build_data_of(run), announce=False)
    assert 'lang="en"' in page_of(run)


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("report.language=de", "report.language=de, but it is en or zh"),
        ("report.learning_curve=3", "report.learning_curve=3"),
        ("data.thumbnails=of", "data.thumbnails='of', but it is true or false"),
    ],
)
def test_an_option_that_is_none_is_named(word, named):
    with pytest.raises(UserError, match=re.escape(named)):
        resolve_report(compose(["data=digits", word]))


def test_several_devices_train_no_learning_curve():
    with pytest.raises(UserError, match=r"trainer\.devices=1"):
        resolve_report(compose(["data=digits", "report.learning_curve=true", "trainer.devices=2"]))


def test_of_an_onnx_file_it_is_judged_what_it_looked_at_and_there_are_neighbours(poor_run, tmp_path):
    run = Run(tmp_path / "run")
    shutil.copytree(poor_run.path, run.path)
    write_onnx(load_classifier(run.best), run.path / "model.onnx")
    shutil.rmtree(run.path / "checkpoints")
    conclude(run, build_data_of(run), announce=False)
    page = page_of(run)
    assert "what glows changes the probability of the answer by" in page
    assert "has no features to compare photographs by" not in page


def test_what_parts_of_the_images_reach_is_kept_and_told_in_a_paper(poor_run, tmp_path):
    run = Run(shutil.copytree(poor_run.path, tmp_path / "run"))
    config, rows = run.config, run.split_rows()
    sites = dict(zip([row["path"] for row in rows if row["split"] == "test"], 15 * ["=A", "B"], strict=True))
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "class", "site"])
        table.writerows([row["path"], row["class"], sites.get(row["path"], "B")] for row in rows)
    config["data"] |= {"labels": str(tmp_path / "labels.csv"), "thumbnails": False}
    run.write_config(config)
    conclude(run, build_data_of(run), announce=False)
    record = Record(run)
    [found] = record.subgroups
    right = record.predictions.predicted == record.predictions.targets
    of_site = np.array([sites[path] == "B" for path in record.predictions.paths])
    assert (found.column, found.parts["B"].hits, found.parts["B"].n) == ("site", (right & of_site).sum(), 15)
    facts, blocks = facts_of(record), contents(run.path)[0]
    assert facts["subgroups"].file == "subgroups.json"
    assert "| site: =A | 15 | 15 |" in blocks["results.md"]
    assert r"\label{tab:subgroups}" in blocks["results.tex"]
    assert "“site”" in {item.number: item.answer(facts) for item in checklist("tripod-ai").items}["23b"]
    (run.path / "subgroups.json").write_text('[{"column": "site", "p": 1, "parts": {"A": 1}}]')
    with pytest.raises(UserError, match=r"subgroups\.json is damaged"):
        contents(run.path)
    config["data"]["labels"] = None
    run.write_config(config)
    conclude(run, build_data_of(run), announce=False)
    assert not (run.path / "subgroups.json").exists()


def test_networks_that_another_version_compared_are_read(tmp_path):
    one = ComparedNetwork("cnn", Number(0.9, 0.8, 0.95, 40, 40, 36), 10**6, 3.5, True)
    other = ComparedNetwork("compact", None, 0, 0.0, False)
    run = Run(tmp_path)
    assert one.accuracy is not None
    run.note(compared=[{**vars(one), "accuracy": one.accuracy.to_dict(), "parameters": 12}, vars(other)])
    assert compared_networks(run) == [one, other]
    run.note(compared=[{"name": "cnn"}])
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        compared_networks(run)


def test_labels_that_the_audit_doubted_are_in_the_runs_list_with_their_pictures_once(tmp_path, make_folder, train_run):
    root = make_folder(tmp_path / "photos", {"cat": 40, "dog": 40})
    for number in range(2):
        (root / f"cat/{number}.png").rename(root / f"dog/cat{number}.png")
    run = train_run(root, tmp_path / "run", "data.split.seed=1", *HARD)
    doubted = labels_to_look_at(audit_of(run))
    assert {suspect.path for suspect in doubted} == {"dog/cat0.png", "dog/cat1.png"}
    labels = page_of(run).partition('<section id="labels">')[2].partition("</section>")[0]
    assert [labels.count(f'alt="{suspect.path}"') for suspect in doubted] == [1, 1]
    assert labels_to_look_at(audit_of(run), [LabelReview(doubted[1:], 1.0, 9)]) == doubted[::-1]
    inspect_configured(DictConfig(run.config), tmp_path)
    page = (tmp_path / "audit.html").read_text("utf-8")
    assert [page.count(f'alt="{suspect.path}"') for suspect in doubted] == [1, 1]
