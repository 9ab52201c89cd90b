"""The page on which people put labels right: by keyboard, several at once, and nothing is lost or given away."""

import http.client
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from commands import Running, started

from imgbench import review as command
from imgbench.compare import compare
from imgbench.data.corrections import CLASS, FILE, LEFT_OUT, RIGHT, read_decisions
from imgbench.errors import UserError
from imgbench.publish import review_server
from imgbench.publish.review_images import ReviewedImages
from imgbench.publish.review_queues import NAMES, build_queues
from imgbench.publish.review_training import Training
from imgbench.run import Run
from imgbench.sweep.comparison import change_between

pytest.importorskip("uvicorn", reason='nothing to serve the page with: pip install "imgbench[demo]"')

CAT, DOG = "<img src=x onerror=alert(1)>", "猫"


def wait(page, expression: str) -> None:
    """Until it is true in the page, whose policy forbids to have it evaluated there."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{expression} has not become true; the page says: {page.inner_text('body')[:2000]}")


@pytest.fixture(scope="module")
def original(tmp_path_factory, make_folder, train_run) -> Path:
    """A run of a frozen network, beside its photographs, of which three lie in the folder of the other class."""
    home = tmp_path_factory.mktemp("review")
    photos = make_folder(home / "photos", {CAT: 36, DOG: 36})
    for number in range(3):
        (photos / CAT / f"{number}.png").rename(photos / DOG / f"moved{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGBENCH_CACHE", str(home / "cache"))
        train_run(photos, home / "run", "model=pretrained", "data.image_size=32", "data.split.test=16", "augment=none")
    return home


@contextmanager
def serving(home: Path, what: str = "run") -> Iterator[tuple[Running, str]]:
    """The page's server in a process of its own, and the page's address."""
    with started("review", home / what, "--port", "0", cwd=home) as server:
        address = next((found[0] for line in server.stdout if (found := re.search(r"http://\S+", line))), None)
        try:
            assert address, "it has ended"
            yield server, address
        finally:
            if server.returncode is None:
                os.kill(server.pid, signal.SIGKILL)


@pytest.fixture
def open_page(browser):
    """Opens the page as somebody, in a browser of their own; what goes wrong in it fails the test."""
    with ExitStack() as stack:
        errors: list[str] = []

        def open_as(address: str, name: str, **options):
            context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, "locale": "en-GB", **options})
            stack.callback(context.close)
            page = context.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("dialog", lambda dialog: errors.append(f"dialog {dialog.message}"))
            page.goto(address)
            page.fill("#name", name)
            page.press("#name", "Enter")  # which is no decision
            wait(page, "rows().length && rows().every(number => seen[number])")
            return page

        yield open_as
    assert errors == []


def decided(home: Path) -> list[tuple[str, str, str, str]]:
    return [(one.path, one.decision, one.value, one.by) for one in read_decisions(home / "photos" / FILE)]


def test_suspect_is_relabelled_by_keyboard_and_the_decision_survives_a_kill(home, open_page):
    with serving(home) as (server, address):
        page = open_page(address, "Ann")
        assert page.get_attribute("[data-queue=suspects]", "aria-pressed") == "true"
        path = page.evaluate("seen[rows()[0]].path")
        assert path.startswith(f"{DOG}/moved")
        page.keyboard.press("1")
        wait(page, "Object.keys(decisions.rows).length == 1")
        server.send_signal(signal.SIGKILL)
    assert decided(home) == [(path, CLASS, CAT, "Ann")]
    with serving(home) as (_, address):
        page = open_page(address, "Bob")
        assert page.inner_text("#people") == "Decided: Ann\N{NO-BREAK SPACE}1"
        for key, expected in (("x", LEFT_OUT), (" ", RIGHT)):
            before = len(decided(home))
            page.keyboard.down(key)
            page.keyboard.down(key)  # held: a second photograph was not looked at
            page.keyboard.up(key)
            wait(page, f"decisions.version == {before + 1}")
            assert decided(home)[-1][1::2] == (expected, "Bob")
        page.keyboard.press("Backspace")
        wait(page, "decisions.version == 4")
        assert decided(home)[-1][1::2] == ("withdrawn", "Bob")
        assert page.evaluate("keysOf(['0', '1', 'cat', 'X', 'a', 'A'])") == ["0", "1", "2", "3", "a", "4"]
        page.click("button[lang=zh]")
        assert "可疑标签" in page.inner_text("#queues") and page.evaluate("document.documentElement.lang") == "zh-CN"
    assert {path.name for path in (home / "photos").iterdir()} == {CAT, DOG, FILE, f".{FILE}.lock"}


def test_two_browsers_lose_and_double_nothing_and_both_are_named(home, open_page):
    with serving(home) as (_, address):
        pages = [open_page(address, name) for name in ("Ann", "Bob")]
        for page in pages:
            page.click("[data-queue=all]")
        own = [[*range(8)], [*range(4, 12)]]  # four of them are looked at by both
        for step in range(8):
            for page, places in zip(pages, own, strict=True):
                page.evaluate(f"go({places[step]})")
                page.keyboard.press("Enter")
                wait(page, f"made.length >= {step + 1}")
        for page in pages:
            wait(page, "/Ann.+Bob/.test(document.getElementById('people').textContent)")
    rows = decided(home)
    by = {name: {path for path, _, _, who in rows if who == name} for name in ("Ann", "Bob")}
    assert len(by["Ann"]) >= 8 and len(by["Bob"]) >= 8
    assert len({(path, who) for path, _, _, who in rows}) == len(rows), "no decision is there twice"


def test_test_images_are_blind(home, open_page):
    images = ReviewedImages(home / "run")
    tested = [row for row in range(len(images.labels)) if images.is_blind(row)]
    assert len(tested) == 16
    with serving(home) as (_, address):
        page = open_page(address, "Ann")
        facts = page.evaluate("FACTS")
        numbers = [int(images.numbers[row]) for row in tested]
        assert [facts["labels"][number] for number in numbers] == [None] * 16
        shown = {number for name, items in facts["queues"].items() if name not in ("blind", "pairs")
                 for [numbers, *_] in items for number in numbers}  # fmt: skip
        assert not shown & set(numbers)
        about = [page.evaluate("number => ask(`about/${number}`)", number) for number in numbers]
        assert all(one.keys() == {"blind", "split", "size"} for one in about)
        only = "number => { FACTS.queues.blind = [[[number], 'why_blind', '']]; openQueue('blind'); }"
        page.evaluate(only, numbers[0])
        wait(page, "seen[rows()[0]]")
        assert "towards the network's opinion make the accuracy untrue" in page.inner_text("#blind")
        assert (page.inner_text("#says"), page.inner_text("#near"), page.is_visible("#right")) == ("", "", False)
        page.keyboard.press(" ")  # nobody can find right what is not shown
        page.keyboard.press("12"[images.labels[tested[0]]])
        wait(page, "decisions.version == 1")
        assert page.evaluate("decisions.rows") == {str(numbers[0]): {"by": "Ann", "decision": "done"}}
    assert decided(home) == [(images.table.paths[tested[0]], RIGHT, "", "Ann")]


def test_line_after_training_again_is_that_of_compare(home, open_page):
    with serving(home) as (_, address):
        page = open_page(address, "Ann")
        for number in range(page.evaluate("FACTS.queues.suspects.length")):
            page.keyboard.press("1")
            wait(page, f"decisions.version == {number + 1}")
        images = ReviewedImages(home / "run")
        row = next(row for row in images.table.rows("test"))
        other = 1 - int(images.labels[row])
        number = int(images.numbers[row])
        decide = "([number, label]) => ask('decide', {rows: [number], decision: 'class', label, by: me})"
        page.evaluate(decide, [number, other])
        page.click("#train")
        page.click("[data-whole=false]")
        wait(page, "['done', 'failed'].includes(training.status)")
        state = page.evaluate("training")
        assert state["status"] == "done", state
        said = page.inner_text("#outcome")
    old, new = Run(home / "run"), Run(home / state["run"])
    found = compare([old.path, new.path])
    [difference] = found.differences
    assert abs(difference.number.value) == abs(state["after"]["difference"]["value"])
    assert (difference.adjusted, difference.number.n) == (state["after"]["p"], 16)
    for key, now in (("after", True), ("before", False)):
        change = change_between(old, new, now)
        assert change is not None and asdict(change) == state[key]
        assert f"{100 * change.first.value:.1f} to {100 * change.second.value:.1f} %, paired difference " in said
    assert {row["path"]: row["split"] for row in old.split_rows()} == {
        row["path"]: row["split"] for row in new.split_rows()
    }
    assert "test/acc_before_corrections" in json.loads((new.path / "metrics.json").read_text())


def test_nobody_else_is_answered(home):
    with serving(home) as (_, address):
        place = urlsplit(address)
        own = f"http://{place.netloc}"

        def answer(path: str, method: str = "GET", body: str | None = None, **headers: str) -> tuple[int, str]:
            connection = http.client.HTTPConnection(str(place.hostname), place.port)
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            found = connection.getresponse()
            content = found.read().decode("latin-1")
            policy = found.headers.get("Content-Security-Policy", "")
            connection.close()
            return found.status, policy or content

        root = place.path
        status, policy = answer(root)
        assert status == 200 and "default-src 'none'" in policy and "unsafe" not in policy
        assert [answer(path)[0] for path in ("/", "/start", "/wrong/start", f"{root}../start")] == [404] * 4
        assert answer(f"{root}start", Host="evil.example")[0] == 403
        assert answer(f"{root}start", Host=f"evil.example:{place.port}")[0] == 403
        assert answer(f"{root}start", Origin="http://evil.example")[0] == 403
        assert answer(f"{root}start", Sec_Fetch_Site="cross-site")[0] == 403
        for path in ("photo/99999", "photo/-1", "photo/..%2f..%2fetc%2fpasswd", "photo/a", "about/99999"):
            assert answer(f"{root}{path}")[0] in (404, 409)
        body = json.dumps({"rows": [0], "decision": "left out", "by": "Ann"})
        kind = {"Content_Type": "application/json"}
        for headers in (
            {},
            kind,
            {"Origin": own},
            {**kind, "Origin": "http://evil.example"},
            {**kind, "Origin": "null"},
        ):
            assert answer(f"{root}decide", "POST", body, **headers)[0] == 403
        for wrong in ('{"rows": "a"}', "[]", "no", '{"rows": [99999], "decision": "left out", "by": "A"}',
                      '{"rows": [0], "decision": "delete", "by": "A"}', '{"rows": [0], "decision": "left out"}',
                      '{"rows": [0], "decision": "class", "label": 7, "by": "A"}'):  # fmt: skip
            assert answer(f"{root}decide", "POST", wrong, **kind, Origin=own)[0] == 409
        assert answer(f"{root}decide", "POST", "x" * 20_000, **kind, Origin=own)[0] == 403
    assert decided(home) == []


def test_decision_that_cannot_be_stored_is_said_and_the_photograph_stays(home, open_page):
    with serving(home) as (_, address):
        page = open_page(address, "Ann")
        page.keyboard.press("x")
        wait(page, "decisions.version == 1")
        with (home / "photos" / FILE).open("a") as file:
            file.write("no row\n")
        page.keyboard.press("ArrowRight")
        before = page.evaluate("position")
        page.keyboard.press("x")
        page.wait_for_selector("#wrong:not([hidden])")
        assert "corrections.csv is damaged: line 3" in page.inner_text("#wrong")
        assert page.evaluate("[position, made.length]") == [before, 1]


def test_ten_thousand_photographs_are_a_few_entries_of_the_list(home, open_page):
    with serving(home, "photos") as (_, address):
        page = open_page(address, "Ann", viewport={"width": 390, "height": 800}, color_scheme="dark")
        assert page.evaluate("[FACTS.run, FACTS.queues.mistakes.length]") == [None, 0]
        assert page.evaluate("FACTS.queues.suspects.length") >= 1, "by colours, before anything was trained"
        page.evaluate("FACTS.queues.all = Array.from({length: 10000}, () => FACTS.queues.all[0]); openQueue('all')")
        page.click("#show_list")
        page.evaluate("document.getElementById('list').scrollTop = 500000; showList()")
        assert page.evaluate("document.querySelectorAll('.entry').length") < 30
        assert page.evaluate("document.querySelector('.entry').getAttribute('aria-label')") > "6500"
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_queues_hide_in_blind_what_the_network_says():
    labels, splits = np.zeros(40, int), np.repeat([0, 1, 2], [16, 4, 20])
    probabilities = np.tile([0.9, 0.1], (40, 1))
    probabilities[[1, 2, 20, 21, 22]] = [0.2, 0.8], [0.05, 0.95], [0, 1], [0, 1], [0.4, 0.6]
    probabilities[3] = 0.52, 0.48
    probabilities[4] = np.nan
    pairs = [
        (0, 5, "near", 0.9),
        (6, 25, "near", 0.99),
        (7, 8, "near", 1.0),
        (9, 17, "exact", 1.0),
        (10, 30, "scene", 0.8),
    ]
    labels[5] = labels[25] = 1
    order = np.arange(40)[::-1]
    queues = build_queues(
        labels, splits, probabilities, [2, 20], pairs, {11: "cut"}, {12: "why_tiny", 23: "why_tiny"}, order
    )
    rows = {name: [item.rows for item in items] for name, items in queues.items()}
    assert set(rows) == set(NAMES)
    assert rows["suspects"] == [(2,)]
    assert rows["mistakes"] == [(2,), (5,), (1,)]
    assert rows["files"] == [(11,), (12,)]
    assert rows["unsure"][0] == (3,) and (4,) not in rows["unsure"]
    assert rows["pairs"] == [(0, 5), (9, 17), (6, 25)]
    whys = [item.why for item in queues["pairs"]]  # of a test image it is not said that the classes differ
    assert whys == ["why_pair_classes", "why_same_splits", "why_pair_splits"]
    wrong = {20, 21, 22, 25}
    blind = [row for (row,) in rows["blind"]]
    assert wrong < set(blind) and len(blind) == 2 * len(wrong) and blind == sorted(blind, reverse=True)
    assert not {row for name in NAMES if name not in ("blind", "pairs") for (row,) in rows[name]} & set(range(20, 40))


def test_every_text_is_there_in_both_languages_and_used():
    place = Path(review_server.__file__).parent
    names = ("static/review.js", "static/review.html", "review_queues.py", "review_images.py")
    script, page, queues, images = ((place / name).read_text() for name in names)
    texts = review_server.texts()
    asked = set(re.findall(r'text\("(\w+)"', script)) | set(re.findall(r'data-(?:text|hint)="(\w+)"', page))
    assert asked <= texts.keys()
    for key, entry in texts.items():
        assert set(entry) == {"en", "zh"}
        assert set(re.findall(r"{(\w+)}", entry["en"])) == set(re.findall(r"{(\w+)}", entry["zh"]))
        made = key.startswith(("queue_", "split_", "decided_", "why_pair_", "why_same_", "learning_"))
        assert made or key in asked or f'"{key}"' in script + queues + images, key


def test_packages_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "imgbench\[demo\]"'):
        command.review("nowhere")


def test_table_lies_elsewhere_where_it_is_asked_for(home):
    images = ReviewedImages(home / "run", home / "decisions.csv")
    row = int(images.table.rows("train")[0])
    images.decide({"rows": [int(images.numbers[row])], "decision": LEFT_OUT, "by": "Ann"})
    assert len(read_decisions(home / "decisions.csv")) == 1 and decided(home) == []
    training = Training(images, change_between)
    training.start(whole=False)
    with pytest.raises(UserError, match="under way"):
        training.start(whole=False)
    while training.state()["status"] == "running":
        time.sleep(0.05)
    assert training.state()["status"] == "done", training.state()
    assert Run(Path(training.state()["run"])).config["data"]["corrections"] == str(home / "decisions.csv")
    with pytest.raises(UserError, match="cannot be written"):
        ReviewedImages(home / "run", home / "nowhere" / "decisions.csv")


def test_one_class_is_given_to_files_of_the_same_content_in_two_folders(home):
    shutil.copy(home / "photos" / CAT / "9.png", home / "photos" / DOG / "same.png")
    images = ReviewedImages(home / "photos")
    [item] = [item for item in images.queues["pairs"] if item.why.startswith("why_same")]
    numbers = [int(images.numbers[row]) for row in item.rows]
    images.decide({"rows": numbers, "decision": CLASS, "label": 0, "by": "Ann"})
    images.decide({"rows": numbers, "decision": CLASS, "label": 0, "by": "Ann"})
    assert [one[1:] for one in decided(home)] == [(CLASS, CAT, "Ann")]
    images.decide({"rows": numbers, "decision": "withdrawn", "by": "Ann"})
    images.decide({"rows": numbers, "decision": "withdrawn", "by": "Ann"})
    assert [one[1] for one in decided(home)] == [CLASS, "withdrawn"]
    assert images.described()["rows"] == {}
