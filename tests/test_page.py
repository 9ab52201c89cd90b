"""The page of a run: what it says, that it needs nothing else, and that it fits every screen."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from imgbench.evaluation.metrics import classification_metrics
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.selective import select
from imgbench.evaluation.subgroups import Subgroups
from imgbench.inspection.labels import Suspect
from imgbench.language import LANGUAGES
from imgbench.number import Number, share
from imgbench.report.catalogue import Texts
from imgbench.report.page import (
    MISTAKES,
    Advice,
    Neighbour,
    Report,
    ShownRows,
    percent,
    promised,
    report_page,
    weakest_class,
)

NAMES = ["猫", "<script>alert(1)</script>", 'dog & "cat"', "a_class_whose_name_is_longer_than_a_telephone_is_wide" * 2]
SECTIONS = ["answer", "next", "classes", "confusion", "mistakes", "pairs", "labels", "neighbours", "calibration",
            "unsure", "curves", "learning_curve", "trained", "reproduce", "model"]  # fmt: skip
EPOCHS = [
    {"epoch": str(i), "train/acc": "0.5", "val/acc": "0.6", "train/loss": "2", "val/loss": "", "lr": "1e-3"}
    for i in range(1, 4)
]


def predictions_of(names, n=120, seed=0, right=0.7):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, len(names), n)
    guesses = np.where(rng.random(n) < right, targets, rng.integers(0, len(names), n))
    probabilities = rng.dirichlet(np.ones(len(names)), n) + 2 * np.eye(len(names))[guesses]
    probabilities = (probabilities / probabilities.sum(1, keepdims=True)).astype(np.float32)
    return Predictions([f"{names[t]}/{i}.jpg" for i, t in enumerate(targets)], [""] * n, targets, probabilities, names)


def report_of(names=NAMES, photographs=True, **options):
    """A report on everything that there can be, with pictures of noise."""
    test = options.pop("predictions", None) or predictions_of(names)
    rng = np.random.default_rng(1)
    shown = ShownRows.of(test)

    def picture():
        return rng.integers(0, 256, (96, 96, 3), np.uint8)

    def near():
        return Neighbour(names[0], 0.5, picture())

    validation = predictions_of(names, 400, 5, 0.97)
    pictures = {
        "images": {row: picture() for row in shown.all.tolist()},
        "heat": {row: rng.random((7, 7)) for row in shown.all.tolist()},
        "neighbours": {row: [near() for _ in range(4)] for row in shown.mistakes.tolist()},
    }
    values = {
        "verdict": ("suspect", ""),
        "notes": ["the weights are not for sale"],
        "advice": [Advice(f"Reason {i} of <b>many</b>.", "python -m x", "warning", ["a.jpg"]) for i in range(9)],
        "label_suspects": [(doubted(names), picture() if photographs else None)],
        "selections": [select(validation, np.zeros(400), error) for error in (0.001, 0.05, 0.2)],
        "epochs": EPOCHS,
        "best_epoch": 2,
        "learning_curve": [(50, accuracy_of(0.5)), (100, accuracy_of(0.7))],
        "gain": Number(0.2, 0.1, 0.3, 100, 100),
        "facts": {"model": "cnn", "folder": "/a/" + 60 * "long" + "/folder"},
        "commands": {"again": f"python -m imgbench.train --config-dir {60 * 'long'} --config-name config"},
        "model": "Linear <CNN> & more: 1,234 parameters " + 200 * "-",
    }  # fmt: skip
    counts = np.arange(len(names)) + 1
    return Report("<i>cnn</i> on folder", test, classification_metrics(test, "test"), counts,
                  **{**values, **(pictures if photographs else {}), **options})  # fmt: skip


def doubted(names):
    return Suspect("a/1.jpg", names[0], names[-1], 0.001, 0.9999)


def accuracy_of(value=0.5):
    return Number(value, value - 0.1, value + 0.1, 100, 100, int(100 * value))


class Page(HTMLParser):
    """The tags, ids, attributes and visible text of a page."""

    def __init__(self, source):
        super().__init__()
        self.source, self.tags, self.ids, self.attributes, self.text, self.prose = source, [], [], [], "", ""
        self.inside: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if "defs" not in self.inside:  # of a chart
            self.ids += [value for name, value in attrs if name == "id"]
        if tag not in ("meta", "img", "br"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        if "style" not in self.inside:
            self.text += data
            if not {"code", "pre", "dd"} & set(self.inside):
                self.prose += data


@pytest.fixture(scope="module", params=LANGUAGES)
def page(request):
    return Page(report_page(report_of(), request.param))


def test_it_refers_to_nothing_outside_itself(page):
    references = [value for name, value in page.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert all(value.startswith(("data:image/", "#")) for value in references)
    targets = [value for name, value in page.attributes if name == "id"]
    assert {value[1:] for value in references if value.startswith("#")} <= set(targets)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"https?:|url\(|@import", page.source)


def test_its_parts_come_in_the_order_in_which_they_are_asked_for(page):
    assert page.ids == SECTIONS


def test_names_and_sentences_with_html_in_them_are_shown_as_text(page):
    assert "<script>alert(1)</script>" in page.text
    assert 'dog & "cat"' in page.text
    assert "Reason 3 of <b>many</b>." in page.text
    assert page.text.count("<i>cnn</i> on folder") == 2, "page title and heading"
    assert "i" in page.tags, "of the bars"
    assert "<b>many" not in page.source
    assert "Linear <CNN> & more: 1,234 parameters" in page.text


def test_every_number_of_the_whole_split_is_there(page):
    names = [name for name in report_of().metrics if name.count("/") == 1]
    assert len(names) > 5
    assert all(name in page.text for name in names)


def test_mistakes_are_shown_with_what_the_network_looked_at_and_their_neighbours(page):
    shown = ShownRows.of(report_of().predictions)
    pairs = sum(len(pair.rows[:4]) for pair in shown.pairs)
    assert len(shown.mistakes) == MISTAKES
    assert page.tags.count("img") == 2 * MISTAKES + 2 * pairs + 1 + 5 * MISTAKES


def test_the_answer_is_one_sentence_with_its_interval():
    report = report_of()
    report.metrics["test/acc"] = Number(219 / 225, 0.944, 0.988, 225, 225, 219)
    expected = "Of 225 photographs that it had not seen it named 219 rightly: 97.3 % (95 % interval 94 to 99 %)."
    assert expected in Page(report_page(report, "en")).text
    assert "认对了 219 张" in Page(report_page(report, "zh")).text


def test_photographs_by_which_it_was_chosen_are_not_called_unseen():
    page = Page(report_page(report_of(photographs=False, selected_on_test=True, selections=[]), "en"))
    assert "had not seen" not in page.text
    assert "selected on the same photographs" in page.text
    assert "Nothing can be promised" in page.text


def test_the_chinese_page_is_chinese_throughout():
    names = ["猫", "狗", "鸟"]
    chinese = [Advice("加照片。")]
    page = Page(report_page(report_of(names, notes=["许可证不明"], advice=chinese), "zh"))
    allowed = {"cnn", "folder", "predict", "max", "error", "metrics", "json", "train", "jpg"}
    prose = page.prose.replace("<i>cnn</i> on folder", "").partition(Texts("zh")("numbers_caption"))[0]
    assert set(re.findall(r"[A-Za-z]{2,}", prose)) <= allowed


def test_without_photographs_there_is_no_picture_but_all_else():
    page = Page(report_page(report_of(photographs=False), "en"))
    assert "img" not in page.tags
    assert "data.thumbnails=false" in page.text
    assert page.ids == SECTIONS
    assert page.tags.count("svg") == 7, "charts are no photographs"


def test_doubted_labels_are_one_list_and_nothing_is_called_certain():
    page = Page(report_page(report_of(photographs=False, labels=7), "en"))
    assert f"labelled {NAMES[0]} (0.1 %), predicted as {NAMES[-1]} (> 99.9 %)" in page.text
    assert "Shown are 1 of 7." in page.text


@pytest.mark.parametrize(
    ("sureness", "right", "n", "said"),
    [
        (0.80, 0.80, 200, "no difference can be told. One of less than about 6 points"),
        (0.99, 0.80, 200, "it is surer than it should be"),
        (0.60, 0.80, 200, "less sure than it could be"),
        ((0.99, 0.61), 0.80, 400, "not so at each level of sureness"),
    ],
)
def test_probabilities_are_not_called_true_where_a_difference_could_not_show(sureness, right, n, said):
    targets = np.arange(n) % 2
    predicted = np.where(np.arange(n) // 2 % 5 < round(5 * right), targets, 1 - targets)
    probabilities = np.zeros((n, 2), np.float32)
    probabilities[np.arange(n), predicted] = np.resize(sureness, n // 2).repeat(2)[:n]
    probabilities[np.arange(n), 1 - predicted] = 1 - probabilities[np.arange(n), predicted]
    test = Predictions([""] * n, [""] * n, targets, probabilities, ["a", "b"])
    report = report_of(["a", "b"], photographs=False, predictions=test)
    assert said in Page(report_page(report, "en")).text


def test_a_bare_run_is_a_page_too():
    test = predictions_of(["a", "b"], 12, right=1.0)
    report = Report("bare", test, classification_metrics(test, "test"), np.zeros(2, int), label_suspects=None)
    for language in LANGUAGES:
        page = Page(report_page(report, language))
        assert {"answer", "mistakes", "unsure", "model"} <= set(page.ids)


THOUSAND = [f"a class with number {i}" for i in range(1000)]


@pytest.fixture(scope="module")
def page_of_a_thousand():
    return report_page(report_of(THOUSAND, predictions=predictions_of(THOUSAND, 5000)), "en")


def test_a_thousand_classes_are_less_than_five_megabytes_and_the_weakest_come_first(page_of_a_thousand):
    assert len(page_of_a_thousand.encode()) < 5e6
    page = Page(page_of_a_thousand)
    assert "970 other classes" in page.text
    assert all(name in page.text for name in THOUSAND)


def test_a_percentage_has_no_digits_where_they_would_say_nothing():
    texts = [percent(value) for value in (0.9733, 0.99999, 1.0, 0.0)] + [percent(0.9733, 0)]
    assert [text.split() for text in texts] == [["97.3", "%"], ["100", "%"], ["100", "%"], ["0.0", "%"], ["97", "%"]]
    assert not any(" " in text for text in texts), "a line may end there"


def test_the_smallest_error_that_leaves_most_answered_is_what_is_advised():
    validation = predictions_of(["a", "b"], 2000, 5, 0.97)
    selections = [select(validation, np.zeros(2000), error) for error in (0.0001, 0.05, 0.2)]
    found = promised(selections)
    assert found is not None
    assert found.max_error == 0.05
    assert promised(selections[:1]) is None


def test_the_weakest_class_is_named_unless_it_slipped_once():
    targets = np.repeat([0, 1], 20)
    probabilities = np.eye(2, dtype=np.float32)[targets]
    probabilities[:1] = [0, 1]

    def weakest():
        return weakest_class(Predictions([""] * 40, [""] * 40, targets, probabilities, ["a", "b"]))

    assert weakest() is None
    probabilities[1] = [0, 1]
    found = weakest()
    assert found is not None
    assert (found[0], found[1].hits, found[1].n) == (0, 18, 20)


def rendered(browser, source, width):
    """What Chromium makes of a page on a screen of this width: its own width, and the height of every part."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_content(source)
    found = page.evaluate("""() => ({
      width: document.documentElement.scrollWidth,
      parts: Object.fromEntries(
        [...document.querySelectorAll("[id]:not(defs *)")].map(part => [part.id, part.offsetHeight])),
      broken: [...document.images].filter(image => !image.naturalWidth).length,
    })""")
    page.close()
    return found


@pytest.mark.parametrize("width", [1200, 390])
def test_in_a_browser_all_parts_are_seen_and_nothing_scrolls_sideways(page, width, browser):
    found = rendered(browser, page.source, width)
    assert found["width"] <= width
    assert list(found["parts"]) == SECTIONS
    assert all(height > 20 for height in found["parts"].values())
    assert found["broken"] == 0


def test_a_thousand_classes_fit_a_phone(page_of_a_thousand, browser):
    assert rendered(browser, page_of_a_thousand, 390)["width"] <= 390


def test_a_part_of_the_photographs_where_it_fails_is_told_first_and_parts_that_do_not_differ_are_named():
    right, wrong = share_of(96), share_of(71)
    parts = [
        Subgroups("<site>", {"B": wrong, "A": right}, 0.001),
        Subgroups("view", {"left": right, "right": right}, 0.8),
    ]
    page = report_page(report_of(subgroups=parts), "en")
    section = page.partition('<section id="subgroups">')[2].partition("</section>")[0]
    assert "&lt;site&gt;: they differ by more than chance (p = 0.001)" in section
    assert section.index("71.0") < section.index("96.0")
    assert "No difference beyond chance by: view" in " ".join(re.sub("<[^>]+>", " ", section).split())
    assert 'id="subgroups"' not in report_page(report_of(), "en")


def share_of(hits: int) -> Number:
    return share(np.arange(100) < hits, np.ones(100, bool), np.arange(100))


@pytest.mark.parametrize(("gain", "said"), [(Number(0.3, 0.2, 0.4, 12, 12), "changes the probability"),
                                            (Number(0.1, -0.1, 0.3, 12, 12), "no better than chance")])  # fmt: skip
def test_it_is_said_whether_what_glows_matters(gain, said):
    report = report_of(heat_gain=gain)
    report.heat = report.heat if gain.low > 0 else {}
    page = Page(report_page(report, "en"))
    low, high = (f"{100 * each:.2g}" for each in (gain.low, gain.high))
    assert said in page.prose
    assert f"by {100 * gain.value:.0f} points more than as many random places do ({low} to {high}; 12" in page.prose
    assert ("glows most" in page.prose or "speaks most" in page.prose) == (gain.low > 0)
