"""What to do next with a run: the right findings, each with a command that exists."""

import re
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
from omegaconf import DictConfig

from imgbench.evaluation.metrics import classification_metrics
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.selective import select
from imgbench.experiment.build import build_data
from imgbench.experiment.compose import compose, quoted
from imgbench.inspection.audit import Audit
from imgbench.inspection.findings import PROBE, Finding
from imgbench.inspection.labels import Suspect
from imgbench.report.advice import advice
from imgbench.report.catalogue import Texts
from imgbench.run import Run


@pytest.fixture
def advised(tiny_run):
    """What is advised to the tiny run with predictions of which so many are wrong."""
    data = build_data(DictConfig(tiny_run.config))

    def ask(wrong=0, images=400, findings=(), suspects=(), language="en", selections=(), resize="stretch"):
        data.preprocessing = replace(data.preprocessing, resize=resize)
        targets = np.arange(images) % 2
        answers = targets.copy()
        answers[: 2 * wrong : 2] = 1
        test = Predictions([""] * images, [""] * images, targets, np.eye(2, dtype=np.float32)[answers], ["cat", "dog"])
        found = Audit("", "", "suspect", 0, {}, {}, {}, list(findings))
        metrics = classification_metrics(test, "test")
        return advice(tiny_run, data, test, metrics, found, suspects, selections, Texts(language))

    return ask


def text_of(lines):
    return "\n".join(f"{one.text} {one.command}" for one in lines).replace("\N{NO-BREAK SPACE}", " ")


def test_padding_is_advised_for_long_photographs_where_they_are_stretched(advised):
    long = [Finding("aspect", "warning", "Long.", 3)]
    assert "Long." in (said := text_of(advised(findings=long))) and "data.resize=pad" in said
    assert "Long." not in text_of(advised(findings=long, resize="pad"))


def test_errors_come_before_warnings_and_these_before_all_else(advised):
    findings = [
        Finding("imbalance", "warning", "Class cat has most.", 3),
        Finding("leak_test", "error", "2 of 9 leak.", 2),
        Finding("exif", "note", "Turned.", 1),
    ]
    lines = advised(wrong=9, findings=findings)
    severities = [one.severity for one in lines]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert lines[0].text == "2 of 9 leak."
    assert "data.split.group=auto" in lines[0].command
    assert "objective.class_weights=balanced" in lines[1].command
    assert "Turned" not in text_of(lines)


def test_findings_are_said_in_chinese_too(advised):
    found = advised(findings=[Finding("leak_test", "error", "2 of 9 leak.", 2)], language="zh")
    assert "2 张测试图片" in found[0].text
    unknown = advised(findings=[Finding("new_kind", "warning", "Something new.", 2)], language="zh")
    assert unknown[0].text == "Something new."


def test_a_class_that_is_recognised_least_asks_for_photographs(advised):
    assert "“cat” was recognised least: 191 of 200" in text_of(advised(wrong=9))
    assert "recognised least" not in text_of(advised(wrong=1))


def test_a_shortcut_is_named_where_it_explains_as_much_as_the_network(advised):
    def probe(value):
        number = {"value": value, "low": value, "high": value, "n": 9, "groups": 9, "skill": 0.3}
        return Finding(f"{PROBE}colours", "note", "", 9, accuracy=number)

    assert "A probe that sees only colours is right in 99.0 %" in text_of(advised(wrong=9, findings=[probe(0.99)]))
    assert "colours alone" not in text_of(advised(wrong=9, findings=[probe(0.6)]))


def test_the_first_suspect_label_is_looked_at(advised):
    suspects = [Suspect("cat/1 (2).png", "cat", "dog", 0.01, 0.99), Suspect("cat/3.png", "cat", "dog", 0.02, 0.98)]
    lines = advised(suspects=suspects)
    assert "2 labels may be wrong" in lines[0].text
    assert shlex.split(lines[0].command)[-1].endswith("/cat/1 (2).png")


def test_what_can_be_promised_is_offered(advised):
    probabilities = np.tile(np.array([0.9, 0.1], np.float32), (500, 1))
    validation = Predictions([""] * 500, [""] * 500, np.zeros(500, np.int64), probabilities, ["cat", "dog"])
    selections = [select(validation, np.zeros(500), error) for error in (0.001, 0.02, 0.1)]
    assert "--max-error 0.02" in text_of(advised(selections=selections))


def test_a_good_model_is_not_told_to_learn_more(advised):
    assert "learning_curve" not in text_of(advised(wrong=1))
    assert "learning_curve" in text_of(advised(wrong=9))


def test_few_test_images_are_crossed(advised):
    assert "data.split.folds=5" in text_of(advised(wrong=4, images=20))
    assert "data.split.folds=5" not in text_of(advised(wrong=4, images=400))


def test_every_word_that_is_advised_can_be_typed(advised):
    kinds = ["leak_test", "near_across_splits", "imbalance", "aspect", "tiny"]
    lines = advised(wrong=4, images=20, findings=[Finding(kind, "warning", kind, 1) for kind in kinds])
    for one in lines:
        words = shlex.split(one.command)
        assert words[:2] == ["python", "-m"]
        settings = [word for word in words if re.match(r"[a-z_.]+=", word) and "," not in word]
        if words[2] == "imgbench.train":
            compose(["data=folder", "data.root=x", *map(quoted, settings)])


def test_what_a_comparison_has_rejected_is_not_advised(tiny_run, tmp_path):
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    data = build_data(DictConfig({**run.config, "data": {**run.config["data"], "image_size": 64}}))
    targets = np.arange(40) % 2
    test = Predictions([""] * 40, [""] * 40, targets, np.eye(2, dtype=np.float32)[1 - targets], ["cat", "dog"])
    metrics = classification_metrics(test, "test")

    def advised() -> str:
        return text_of(advice(run, data, test, metrics, None, (), (), Texts("en")))

    assert "model=pretrained" in advised()
    network = {"name": "pretrained", "multiply_adds": 1, "seconds": 1.0, "taken": False}
    run.note(compared=[{**network, "accuracy": None}])  # there was no time for it
    assert "model=pretrained" in advised()
    run.note(compared=[{**network, "accuracy": {"value": 0.5}}])
    assert "model=pretrained" not in advised()
