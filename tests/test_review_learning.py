"""Labelling: what is asked next, from a run or from nothing; what learns meanwhile, and what is made of it."""

import json
import shutil
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from test_review import CAT, DOG, decided, open_page, serving, wait  # noqa: F401

from imgbench.data.corrections import BY_CHANCE, CLASS, FILE, LEFT_OUT, Decision, add_decisions, read_decisions
from imgbench.errors import UserError
from imgbench.inference.active_learning import changed, is_settled, learn, least_sure, most_typical, reduced
from imgbench.publish.review_images import ReviewedImages
from imgbench.publish.review_learning import Learning
from imgbench.publish.review_training import Training
from imgbench.run import Run
from imgbench.sweep.comparison import change_between

pytest.importorskip("uvicorn", reason='nothing to serve the page with: pip install "imgbench[demo]"')


def until(condition) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it has not become true")


@pytest.fixture(scope="module")
def original(tmp_path_factory, make_folder, train_run) -> Path:
    """A run of a frozen network, its photographs, and more without labels."""
    home = tmp_path_factory.mktemp("labelling")
    photos = make_folder(home / "photos", {CAT: 20, DOG: 20})
    make_folder(home / "loose", {"one": 20, "two": 20})
    (home / "more").mkdir()
    for file in sorted((home / "loose").glob("*/*.png")):
        file.rename(home / "more" / f"{file.parent.name}{file.name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGBENCH_CACHE", str(home / "cache"))
        train_run(photos, home / "run", "model=pretrained", "data.image_size=32")
    return home


@pytest.fixture
def learning_of():
    """Learns from photographs until the test ends."""
    with ExitStack() as stack:

        def begin(images: ReviewedImages) -> Learning:
            learning = Learning(images)
            stack.callback(learning.stop)
            return learning

        yield begin


def test_photographs_that_help_are_asked_labelled_and_learnt(home, learning_of, monkeypatch, capsys):
    monkeypatch.chdir(home)
    tested = next(row["path"] for row in Run(home / "run").split_rows("test"))
    trained = next(row["path"] for row in Run(home / "run").split_rows("train"))
    shutil.copy(home / "photos" / trained, home / "more" / "same.png")
    (home / "more" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photograph")
    images = ReviewedImages("run", unlabelled="more")
    assert "1 of 42 photographs in more have a label, and are not asked." in capsys.readouterr().out
    assert len(images.asked) == 40
    assert [item.why for item in images.queues["files"] if item.why == "why_damaged"] == ["why_damaged"]
    learning = learning_of(images)
    until(lambda: learning.state()["status"] == "learnt")
    state = learning.state()
    assert len(state["next"]) == 40 and state["left"] == 40
    about = images.about(int(images.rows[state["next"][0]]))
    assert about["asked"] and about["label"] is None and len(about["classes"]) == 2
    for number in state["next"][:6]:
        label = int("two" in images.paths[images.rows[number]])
        images.decide({"rows": [number], "decision": CLASS, "label": label, "by": "Ann"})
    images.decide({"rows": [state["next"][6]], "decision": LEFT_OUT, "by": "Ann"})
    learning.wake()
    until(lambda: learning.state()["left"] == 33)
    assert not set(state["next"][:7]) & set(learning.state()["next"])
    assert [one[1] for one in decided(home)] == [CLASS] * 6 + [LEFT_OUT]
    training = Training(images, change_between)
    training.start(whole=False)
    until(lambda: training.state()["status"] != "running")
    assert training.state()["status"] == "done", training.state()
    new = Run(Path(training.state()["run"]))
    assert sum("more/" in row["path"] for row in new.split_rows("train")) == 6
    assert [row["path"] for row in new.split_rows("test")] == [
        row["path"] for row in Run(home / "run").split_rows("test")
    ]
    again = ReviewedImages("run", unlabelled="more")
    assert len(again.asked) == 34, "what has a label is not asked again"
    assert tested in again.paths


def test_those_that_a_run_from_nothing_has_left_are_asked_and_counted_once(home, fit_run):
    more = home / "more"
    images = ReviewedImages(more)
    for row in range(24):
        label = {"decision": CLASS, "name": images.paths[row][:3], "by": "Ann"}
        images.decide({"rows": [int(images.numbers[row])], **label})
    run = fit_run(more, home / "first")
    images = ReviewedImages(run.path, unlabelled=more)
    assert (images.own, len(images.asked)) == (24, 16)
    images.decide({"rows": [int(images.numbers[images.asked[0]])], "decision": CLASS, "label": 0, "by": "Ann"})
    path = images.table.paths[images.asked[0]]
    assert decided_in(more)[-1][0] == path and (more / path).is_file()
    again = ReviewedImages(run.path)
    assert again.own == 25 and again.table.splits[again.table.paths.index(path)] == 0
    assert [row["path"] for row in run.split_rows("test")] == [
        again.table.paths[row] for row in again.table.rows("test")
    ]
    row = images.asked[1]
    add_decisions(more / FILE, [Decision(images.hashes[row], str(more / images.paths[row]), CLASS, "one")])
    assert ReviewedImages(run.path).own == 26, "by its whole path, as a decision on another run has it"


def test_copies_of_test_images_and_folders_without_anything_new_are_not_asked(home, learning_of):
    photos = home / "photos"
    tested = next(row["path"] for row in Run(home / "run").split_rows("test"))
    only = home / "only"
    only.mkdir()
    shutil.copy(photos / tested, only / "a.png")
    with pytest.raises(UserError, match="has no photograph that is not in"):
        ReviewedImages(home / "run", unlabelled=only)
    with pytest.raises(UserError, match="should be a folder of images"):
        ReviewedImages(home / "run", unlabelled=home / "nowhere")
    with pytest.raises(UserError, match="all of its photographs are asked"):
        ReviewedImages(home / "more", unlabelled=only)
    images = ReviewedImages(photos, unlabelled=home / "more")  # without a run, by the classes of the folders
    assert len(images.asked) == 40 and not images.names_classes
    learning = learning_of(images)
    until(lambda: learning.state()["status"] != "preparing")
    assert learning.state()["status"] == "learnt", learning.state()


def test_own_features_of_a_network_that_was_trained_as_a_whole(home, fit_run, learning_of):
    fit_run(home / "photos", home / "whole")
    images = ReviewedImages(home / "whole", unlabelled=home / "more")
    learning = learning_of(images)
    until(lambda: learning.state()["status"] != "preparing")
    assert learning.state()["status"] == "learnt", learning.state()


def test_one_photograph_can_be_labelled(home, learning_of):
    alone = home / "alone"
    alone.mkdir()
    shutil.copy(home / "more" / "one0.png", alone)
    images = ReviewedImages(alone)
    learning = learning_of(images)
    until(lambda: learning.state()["status"] == "waiting")
    images.decide({"rows": [0], "decision": CLASS, "name": "a", "by": "Ann"})
    learning.wake()
    until(lambda: learning.state()["left"] == 0)
    assert learning.state()["next"] == []


def test_names_of_classes(home):
    images = ReviewedImages(home / "more")

    def name(number: int, text: object) -> None:
        images.decide({"rows": [number], "decision": CLASS, "name": text, "by": "Ann"})

    for wrong in ("", "  ", None, 3, "x" * 81, "a\x00b"):
        with pytest.raises(UserError, match="A class has a name"):
            name(0, wrong)
    name(0, "=cmd|' /C calc'!A0")
    name(1, "  Cat  fish ")
    name(2, "cat FISH")
    assert images.class_names == ["=cmd|' /C calc'!A0", "Cat fish"]
    assert "\n" not in images.class_names[0] and "'=cmd" in (home / "more" / FILE).read_text("utf-8-sig")
    images.decide({"rows": [0], "decision": "withdrawn", "by": "Ann"})
    assert images.class_names[1] == "Cat fish", "no class gets the number of another"
    number = images.rows[1]
    for name_of, decision, who in (("x", CLASS, "Bob"), ("Cat fish", CLASS, "Bob"), (None, "right", "Ann")):
        images.decide({"rows": [1], "decision": decision, "name": name_of, "by": who})
        row = decided_in(home / "more")[-1]
        assert row[1:] == (decision, name_of or "", who)
    known = images.decisions()
    assert images.label_now(int(number), known) == known.class_names.index("Cat fish")
    with pytest.raises(UserError, match="There is no class 5"):
        images.decide({"rows": [3], "decision": CLASS, "label": 5, "by": "Ann"})


def test_from_nothing_to_an_audited_run_by_keyboard_alone(home, open_page):  # noqa: F811
    with serving(home, "more") as (server, address):
        page = open_page(address, "Ann")
        assert page.evaluate("document.activeElement.id") == "search"
        assert "Type what this photograph shows" in page.inner_text("#why")
        path = "seen[rows()[0]].path"
        first = page.evaluate(path)
        page.keyboard.type("Round thing")
        page.keyboard.press("Enter")
        wait(page, "decisions.version == 1")
        assert decided_in(home / "more") == [(first, CLASS, "Round thing", "Ann")]
        other = first[:3]
        for number in range(1, 24):
            wait(page, "rows().length && seen[rows()[0]] && !(rows()[0] in decisions.rows)")
            if page.evaluate(path)[:3] == other:
                page.keyboard.press("1")
            elif page.evaluate("decisions.classes.length") == 1:
                page.keyboard.press("/")
                page.keyboard.type("方")
                page.keyboard.press("Enter")
            else:
                page.keyboard.press("2")
            wait(page, f"decisions.version == {number + 1}")
        wait(page, "learning.status == 'learnt'")
        go_to_one_with_help(page)
        assert page.is_visible("#right") and page.inner_text("#right").startswith("Yes, ")
        wait(page, "document.getElementById('learning').textContent.includes('24 labelled here, 16 left')")
        server.send_signal(signal.SIGKILL)
    assert len(decided_in(home / "more")) == 24
    with serving(home, "more") as (_, address):
        page = open_page(address, "Bob", viewport={"width": 390, "height": 800}, color_scheme="dark", locale="zh-CN")
        assert page.evaluate("decisions.classes") == ["Round thing", "方"]
        wait(page, "learning.status == 'learnt'")
        go_to_one_with_help(page)
        page.keyboard.press("Enter")  # as the network says
        wait(page, "decisions.version == 25")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.click("#train")
        page.click("#ways button")
        until(lambda: page.evaluate("['done', 'failed'].includes(training.status)") or page.wait_for_timeout(200))
        state = page.evaluate("training")
        assert state["status"] == "done", state
        assert "准确率" in page.inner_text("#outcome")
        assert "随机抽取" in page.inner_text("#outcome")
    given = read_decisions(home / "more" / FILE)
    drawn = [one.hash for one in given if one.why == BY_CHANCE]
    of_sample = sum(one.hash <= max(drawn) for one in given)
    assert 1 <= len(drawn) <= of_sample < len(given) and state["accuracy_drawn"]["n"] == of_sample
    run = Run(home / state["run"])
    assert {row["class"] for row in run.split_rows()} == {"Round thing", "方"}
    assert json.loads((run.path / "audit.json").read_text())["images"] == 25
    assert sorted(path.name for path in (home / "more").iterdir() if path.suffix != ".png") == [f".{FILE}.lock", FILE]


def go_to_one_with_help(page) -> None:
    """To the next photograph of which the page tells what the network says: of those drawn by chance it does not."""
    wait(page, "seen[rows()[0]]")
    while page.evaluate("seen[rows()[0]].drawn"):
        assert not page.is_visible("#right") and page.inner_text("#says") == ""
        page.keyboard.press("ArrowRight")
        wait(page, "seen[rows()[0]]")
    wait(page, "seen[rows()[0]].classes.length == 2")


def decided_in(folder: Path) -> list[tuple[str, str, str, str]]:
    return [(one.path, one.decision, one.value, one.by) for one in read_decisions(folder / FILE)]


def test_every_fifth_photograph_is_drawn_by_chance_and_asked_without_help(home, learning_of):
    images = ReviewedImages(home / "more")
    learning = learning_of(images)
    until(lambda: learning.state()["status"] == "waiting")
    order = np.argsort(np.array(images.hashes))
    assert learning.state()["next"][4::5] == learning.state()["drawn"] == list(range(8))
    for number in learning.state()["next"][:25]:
        name = "two" if "two" in images.paths[images.rows[number]] else "one"
        why = BY_CHANCE if number in learning.state()["drawn"] else ""
        images.decide({"rows": [number], "decision": CLASS, "name": name, "by": "Ann", "why": why})
    learning.wake()
    until(lambda: learning.state()["status"] == "learnt" and learning.state()["labels"] == 25)
    state = learning.state()
    left = [number for number in range(40) if images.decisions().of_rows[images.rows[number]] is None]
    assert state["drawn"] == left[:3] and state["next"][4] == left[0]
    assert images.about(int(images.rows[left[0]]))["classes"] == []
    assert len(images.about(int(images.rows[state["next"][0]]))["classes"]) == 2
    assert list(order) == list(images.rows)


def test_two_browsers_name_classes_from_nothing(home, open_page):  # noqa: F811
    with serving(home, "more") as (_, address):
        pages = [open_page(address, name) for name in ("Ann", "Bob")]
        pages[1].evaluate("go(30)")
        wait(pages[1], "seen[rows()[0]]")
        for page, name in zip(pages, ("left", "Right"), strict=True):
            page.focus("#search")
            page.keyboard.type(name)
            page.keyboard.press("Enter")
            wait(page, "decisions.version >= 1")
        for page in pages:
            wait(page, "decisions.classes.length == 2 && document.querySelectorAll('#classes button').length == 2")
        for page, key in zip(pages, "21", strict=True):  # each gives the other's class
            before = page.evaluate("made.length")
            page.keyboard.press(key)
            wait(page, f"made.length > {before}")
    rows = decided_in(home / "more")
    assert [value for _, _, value, _ in rows] == ["left", "Right", "Right", "left"]


def test_chosen_photographs_are_unsure_of_all_kinds_or_typical():
    rng = np.random.default_rng(0)
    centres = 6 * rng.normal(size=(4, 12))
    labels = np.repeat(np.arange(4), 60)
    features = reduced(np.concatenate([centres[label] + rng.normal(size=(60, 12)) for label in range(4)]))
    first = most_typical(features, np.zeros(0, np.int64), 4, rng)
    assert sorted(labels[first]) == [0, 1, 2, 3]
    assert len(most_typical(features, np.arange(238), 5, rng)) == 2
    learnt = learn(features[first[:2]], np.array([0, 1]), 4)
    chosen = least_sure(features, first, learnt(features), 8, rng)
    assert len(chosen) == 8 and not set(chosen) & set(first)
    assert {2, 3} & set(labels[chosen])
    assert len(least_sure(features, np.arange(240), learnt(features), 8, rng)) == 0
    one, other = np.eye(3)[[0, 1, 2, 0]], np.eye(3)[[0, 1, 1, 0]]
    assert changed(one, other) == 0.25 and changed(one[:0], other[:0]) == 0
    assert is_settled([0.5, 0.01, 0.0, 0.005]) and not is_settled([0.0, 0.0]) and not is_settled([0.0, 0.5, 0.0])
