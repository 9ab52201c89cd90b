"""The page on which a run is tried, served or as a folder: in a browser, its answers are those of `predict`."""

import base64
import gzip
import html
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from made_files import profile
from PIL import Image

from imgbench import demo as command
from imgbench import export
from imgbench.data.collection import Collection
from imgbench.decode import open_image
from imgbench.errors import UserError
from imgbench.inference.classify import classify
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.predictor import Predictor
from imgbench.preprocessing import Preprocessing
from imgbench.publish import page_with_server as served
from imgbench.publish.answers import Classifier, title_of
from imgbench.publish.runtime import HASHES, VERSION, onnxruntime_web
from imgbench.publish.static_page import TEXTS, onnx_file, write_static
from imgbench.report.catalogue import Texts, entries
from imgbench.report.page import percent
from imgbench.run import Run

SCRIPT = Path(__file__).parents[1] / "notebooks" / "predict.mjs"
NAMES = ["<script>alert(1)<", "猫"]


@pytest.fixture(scope="module")
def run(run_of) -> Run:
    """Of classes with names that are hard to show, with validation images enough to say "unsure", and padded images."""
    words = ["data.resize=pad", "data.split.val=60", "data.split.test=20", "trainer.max_epochs=3"]
    return run_of("demo", dict.fromkeys(NAMES, 60), *words)


@pytest.fixture(scope="module")
def exported(run) -> Path:
    """The run's ONNX file, written where it is missing."""
    return onnx_file(run.path)


@pytest.fixture
def copy(run, exported, tmp_path) -> Run:
    """To be spoilt."""
    return Run(Path(shutil.copytree(run.path, tmp_path / "run")))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> Path:
    """The folder of onnxruntime-web, which npm mostly has in its own cache."""
    home = tmp_path_factory.mktemp("runtime")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGBENCH_CACHE", str(home))
        try:
            onnxruntime_web()
        except UserError as error:
            pytest.skip(f"no onnxruntime-web to test the page with: {error}")
    return home / f"onnxruntime-web-{VERSION}"


@pytest.fixture(scope="module")
def folder(run, exported, runtime, tmp_path_factory) -> Path:
    """The page as a folder."""
    return write_static(run.path, tmp_path_factory.mktemp("page") / "new", 0.1, runtime).parent


@pytest.fixture
def screen(browser):
    """An empty page as wide as a telephone; what it asked for, and what went wrong in it."""
    page = browser.new_page(viewport={"width": 390, "height": 800}, locale="en-GB")
    page.requests, page.errors = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("dialog", lambda dialog: page.errors.append(f"dialog {dialog.message}"))
    yield page
    page.close()


@pytest.fixture(scope="module")
def opened(browser, folder):
    """The folder's page, opened once for all tests that leave nothing but answers in it."""
    page = browser.new_page(viewport={"width": 390, "height": 800}, locale="en-GB")
    give(page, folder, [])
    yield page
    page.close()


@pytest.fixture(scope="module")
def pictures(run, tmp_path_factory) -> list[Path]:
    """Of every kind that the browser and Pillow both read: their pixels agree, upright, over white and resized."""
    folder = tmp_path_factory.mktemp("pictures")
    photo = sorted(Path(run.config["data"]["root"]).glob("*/1*.png"))
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize((333, 222), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x112] = 6
    smooth.save(folder / "turned.jpg", exif=turned)
    veiled = smooth.copy()
    veiled.putalpha(Image.linear_gradient("L").resize(smooth.size))
    veiled.save(folder / "veiled.png")
    smooth.crop((0, 0, 9, 150)).save(folder / "narrow.webp", lossless=True)
    smooth.convert("P").save(folder / "colours.gif")
    return [photo[0], photo[-1], *sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def unreadable(pictures, tmp_path_factory) -> dict[Path, str]:
    """File -> what the folder's page says of it."""
    folder = tmp_path_factory.mktemp("unreadable")
    turned = next(path for path in pictures if path.suffix == ".jpg")
    (folder / "note.jpg").write_text("<b>no picture</b>")
    (folder / "cut.jpg").write_bytes(turned.read_bytes()[:-3000])
    Image.new("RGB", (30, 30)).save(folder / "scan.tif")
    Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30)).save(folder / "deep.png")
    said = {
        "note.jpg": "not_a_picture",
        "cut.jpg": "picture_damaged",
        "scan.tif": "picture_format",
        "deep.png": "picture_deep",
    }
    return {folder / name: Texts("en")(key, format="TIFF") if key == "picture_format" else Texts("en")(key)
            for name, key in said.items()}  # fmt: skip


def expected(model: Path, paths: list[Path]) -> list[list[str]]:
    """The classes of each picture, the most probable first, with their probabilities to three digits."""
    predictions = Predictor.load(model).predict(paths)
    return [[f"{name} {percent(p)}" for name, p in one.probabilities.items()] for one in predictions]


def plain(text: str) -> str:
    return re.sub(r"[\t ]+", " ", text.replace("\N{NO-BREAK SPACE}", " ")).strip()


def shown(screen, article: str) -> list[list[str]]:
    """The classes of each answer, as the page shows them."""
    return [
        [plain(row.inner_text()) for row in one.query_selector_all("tr")] for one in screen.query_selector_all(article)
    ]


def said(texts: list[list[str]]) -> list[list[str]]:
    return [[plain(text) for text in one] for one in texts]


@pytest.fixture
def at_page(run, screen, monkeypatch, tmp_path):
    """Opens the served page of a model, gives it pictures, and waits for the answers."""
    pytest.importorskip("gradio", reason='no Gradio to serve the page: pip install "imgbench[demo]"')
    monkeypatch.setenv("GRADIO_SHARE", "True")  # is no decision of the user's
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    classifiers = []

    def open_page(model: Path, files: list[Path], language="en", **options) -> Classifier:
        classifiers.append(Classifier(model, **options))
        title = title_of(model, Texts(language))
        context = served.serving(classifiers[0], title, Texts(language), 0)
        address = context.__enter__()
        classifiers.append(context)
        assert address.startswith("http://127.0.0.1:")
        screen.goto(address)
        screen.wait_for_selector("input[type=file]", state="attached")
        screen.set_input_files("input[type=file]", files)
        wait_for(screen, ".answer", len(files))
        return classifiers[0]

    yield open_page
    if len(classifiers) > 1:
        classifiers[1].__exit__(None, None, None)
    assert list(tmp_path.glob("imgbench-demo-*")) == [], "what visitors upload is gone"


def test_served_page_answers_several_pictures_as_predict_does(run, pictures, unreadable, at_page, screen, capsys):
    broken = list(unreadable)[:2]
    classifier = at_page(run.path, [*pictures, *broken], max_error=0.1)
    assert shown(screen, ".answer:not(.wrong)") == said(expected(run.path, pictures))
    wrong = [one.inner_text() for one in screen.query_selector_all(".answer.wrong")]
    assert ["note.jpg" in wrong[0], "not an image" in wrong[0], "truncated" in wrong[1]] == [True] * 3
    assert classifier.training is not None
    # The picture, what speaks for the answer, and the nearest four of the training images.
    assert len(screen.query_selector_all(".answer:not(.wrong) img")) == 6 * len(pictures)
    assert screen.evaluate("[...document.querySelectorAll('.answer img')].every(image => image.naturalWidth)")
    assert screen.evaluate("document.documentElement.scrollWidth") <= 390
    answers = screen.query_selector_all(".answer:not(.wrong)")
    unsure = [" unsure" in f" {one.get_attribute('class')}" for one in answers]
    capsys.readouterr()
    classify(run.path, Collection([str(path) for path in pictures]), max_error=0.1)
    assert unsure == ["unsure:" in line for line in capsys.readouterr().out.splitlines()[: len(pictures)]]
    assert unsure[:2] == [False, False] and any(unsure)
    assert "at most 10 % of its other answers are wrong" in plain(screen.inner_text("body"))
    assert screen.errors == []
    elsewhere = [url for url in screen.requests if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
    assert elsewhere == [], "nothing comes from the network"


def test_served_page_of_an_onnx_file_in_chinese(run, exported, pictures, at_page, screen):
    screen.set_viewport_size({"width": 1200, "height": 800})
    at_page(exported, pictures[:2], language="zh")
    lowest = "Math.max(...[...document.querySelectorAll('{}')].map(one => one.getBoundingClientRect().bottom))"
    bottoms = [screen.evaluate(lowest.format(one)) for one in ("#pictures .thumbnail-item", "#pictures")]
    assert 0 < bottoms[0] <= bottoms[1], "no picture is cut"
    assert shown(screen, ".answer") == said(expected(run.path, pictures[:2]))
    text = screen.inner_text("body")
    assert Texts("zh")("no_neighbours_onnx") in text and Texts("zh")("looked_at") in text
    assert len(screen.query_selector_all(".answer img")) == 2 * 2, "the picture, and what speaks for the answer"


def test_photographs_that_are_private_or_gone_or_others_are_not_shown(copy, pictures, make_folder, tmp_path):
    assert Classifier(copy.path).without_training == ""
    config = copy.path / "config.yaml"
    text = config.read_text()
    config.write_text(re.sub(r"thumbnails: .*", "thumbnails: 'off'", text))
    private = Classifier(copy.path)
    assert (private.training, private.without_training) == (None, "no_neighbours_private")
    assert [len(answer.neighbours) for answer in private.answers(pictures[:1])] == [0]
    root = copy.config["data"]["root"]
    for other in ("/nowhere", str(make_folder(tmp_path / "others", dict.fromkeys(NAMES, 60)))):
        config.write_text(text.replace(root, other))
        assert Classifier(copy.path).without_training == "no_neighbours_gone"
    assert "data.thumbnails=false" in served.answers_html(private.answers(pictures[:1]), private, Texts("en"))


def test_run_of_an_earlier_version_that_kept_nothing_for_it_is_never_unsure(copy, pictures):
    for name in ("validation.csv", "features.npz"):
        (copy.path / name).unlink()
    (copy.path / "config.yaml").write_text(re.sub(r" *thumbnails: .*\n", "", (copy.path / "config.yaml").read_text()))
    classifier = Classifier(copy.path)
    assert classifier.acceptance is None
    answers = classifier.answers(pictures[:1])
    assert answers[0].doubt is None and answers[0].neighbours
    assert Texts("en")("never_unsure") in served.answers_html(answers, classifier, Texts("en"))
    with pytest.raises(UserError, match="has not kept it"):
        Classifier(copy.path, 0.1)


def test_file_of_another_version_is_refused(exported, tmp_path):
    model = onnx.load(exported)
    facts = json.loads(model.metadata_props[0].value) | {"format": 99}
    onnx.helper.set_model_props(model, {"imgbench": json.dumps(facts)})
    onnx.save(model, tmp_path / "new.onnx")
    for make in (Classifier, lambda path: write_static(path, tmp_path / "page")):
        with pytest.raises(UserError, match="format 99, but this imgbench reads"):
            make(tmp_path / "new.onnx")
    assert not (tmp_path / "page").exists()


def test_port_that_is_taken_is_named_before_anything_is_read():
    with socket.create_server((served.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port} of 127.0.0.1 cannot be used: .* name another port"):
            command.demo("nowhere", port=port)
    assert served.free_port(port) == port
    assert served.free_port(0) > 0


def test_page_that_is_shared_says_where_pictures_go(run):
    pytest.importorskip("gradio", reason='no Gradio to serve the page: pip install "imgbench[demo]"')
    for share, key in ((False, "stays_here"), (True, "through_gradio")):
        page = served.build_page(Classifier(run.path), "title", Texts("en"), share)
        assert html.escape(Texts("en")(key)) in str(page.config)


def test_gradio_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r'pip install "imgbench\[demo\]"'):
        command.demo("nowhere")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--port", "70000"], "--port 70000"),
        (["--max-error", "2"], "--max-error 2, but it is a share"),
        (["--static", "page", "--share"], "--static writes a folder"),
        (["--onnxruntime-web", "x"], "--static DIR"),
        (["--language", "fr"], "invalid choice"),
    ],
)
def test_options_that_cannot_be_are_refused(words, named, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demo", "RUN", *words])
    with pytest.raises(SystemExit):
        command.main()
    assert named in capsys.readouterr().err


def weights_of(folder: Path) -> bytes:
    """The ONNX file that the page carries."""
    packed = re.search(r'const MODEL = "(.*?)"', (folder / "model.js").read_text("utf-8"))
    assert packed
    return gzip.decompress(base64.b64decode(packed[1]))


def wait_for(screen, selector: str, number: int) -> None:
    """Until there are so many. The page's policy forbids what playwright's `wait_for_function` does in it."""
    expect = pytest.importorskip("playwright.sync_api").expect
    expect(screen.locator(selector)).to_have_count(number, timeout=30_000)


def give(screen, folder: Path, files: list[Path]) -> None:
    """Opens the folder's page from the disk, gives it pictures, and waits for the answers."""
    screen.goto((folder / "index.html").as_uri())
    screen.set_input_files("#pictures", files)
    wait_for(screen, "article", len(files))


def test_folder_opened_from_a_disk_answers_as_predict_does(run, folder, pictures, unreadable, screen):
    give(screen, folder, [*pictures, *unreadable])
    assert shown(screen, "article:not(.wrong)") == said(expected(run.path, pictures))
    wrong = [one.inner_text() for one in screen.query_selector_all("article.wrong")]
    assert all(text in found for text, found in zip(unreadable.values(), wrong, strict=True)), wrong
    screen.click(".look")
    wait_for(screen, "figure", screen.locator("table").count() + 1)
    assert screen.evaluate("document.documentElement.scrollWidth") <= 390
    assert screen.errors == []
    assert [url for url in screen.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def browser_pixels(page, path: Path) -> np.ndarray:
    """(height, width, 3) that the page gives the model."""
    width, height, data = page.evaluate(
        """async bytes => {
          const bitmap = await decoded(new File([Uint8Array.from(atob(bytes), c => c.charCodeAt(0))], "x"));
          const text = Array.from(pixelsOf(bitmap), value => String.fromCharCode(value)).join("");
          return [bitmap.width, bitmap.height, btoa(text)];
        }""",
        base64.b64encode(path.read_bytes()).decode(),
    )
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 3)


def test_browser_gives_the_model_the_pixels_that_pillow_gives(pictures, opened, tmp_path):
    wide = np.random.default_rng(0).integers(0, 256, (3, 9000, 3), np.uint8)  # several canvases, side by side
    Image.fromarray(wide).save(tmp_path / "wide.png")
    lossless = [path for path in pictures if path.suffix in (".png", ".gif", ".webp") and path.stem != "veiled"]
    for path in [*lossless, tmp_path / "wide.png"]:
        assert np.array_equal(browser_pixels(opened, path), np.asarray(open_image(path))), path.name


def test_browser_has_the_colours_of_a_profile_unless_the_model_was_trained_without(tmp_path, opened):
    y, x = np.mgrid[0:20, 0:20]
    image = Image.fromarray(np.dstack([80 + 4 * x, 170 - 3 * y, 100 + x + y]).astype(np.uint8))
    image.save(tmp_path / "p3.png", icc_profile=profile("Display P3"))
    for decoding, tolerance in ((1, 0), (2, 2)):
        opened.evaluate(f"FACTS.decoding = {decoding}")
        wanted = Preprocessing(20, decoding=decoding).decode(tmp_path / "p3.png").astype(int)
        assert np.abs(browser_pixels(opened, tmp_path / "p3.png") - wanted).max() <= tolerance


def test_folder_is_unsure_where_the_model_is_and_speaks_chinese(run, folder, pictures, screen, capsys):
    give(screen, folder, pictures)
    unsure = [" unsure" in f" {one.get_attribute('class')}" for one in screen.query_selector_all("article")]
    classify(run.path / "model.onnx", Collection([str(path) for path in pictures]), max_error=0.1)
    lines = capsys.readouterr().out.splitlines()[: len(pictures)]
    assert unsure == ["unsure:" in line for line in lines]
    assert unsure[:2] == [False, False] and any("unlike the training images" in line for line in lines)
    bars = [bool(one.query_selector(".bar")) for one in screen.query_selector_all("article")]
    assert bars == [not one for one in unsure]
    screen.evaluate("FACTS.threshold = 0.9999999")
    screen.set_input_files("#pictures", [pictures[1]])
    wait_for(screen, "article.unsure", sum(unsure) + 1)
    screen.click("nav button[lang=zh]")
    text = screen.inner_text("main")
    for key in ("try_it", "unsure_answer", "doubt_probability", "doubt_unlike", "stays_in_browser"):
        assert Texts("zh")(key) in text
    assert Texts("zh")("not_recognised") not in text
    assert "最多有 10" in text
    assert screen.evaluate("document.title") == "folder 上的 cnn"


def test_file_of_an_earlier_imgbench_is_brought_up_to_date(exported, pictures, screen, tmp_path, runtime):
    old = Path(__file__).parent / "old_run" / "run" / "model.onnx"
    write_static(shutil.copy(old, tmp_path / "old.onnx"), tmp_path / "page", runtime=runtime)
    (tmp_path / "carried.onnx").write_bytes(weights_of(tmp_path / "page"))
    assert OnnxModel(tmp_path / "carried.onnx").resizes and not OnnxModel(old).resizes
    give(screen, tmp_path / "page", pictures)
    assert shown(screen, "article") == said(expected(old, pictures))
    assert Texts("en")("not_recognised") in screen.inner_text("main")


@pytest.fixture(scope="module")
def conformance(run, exported, tmp_path_factory) -> tuple[Path, dict]:
    """Files of every kind with the answers, as `export --conformance` writes them."""
    folder = tmp_path_factory.mktemp("conformance") / "set"
    export.export(run.path, images=0, conformance=folder)
    expected = json.loads((folder / "expected.json").read_text())
    assert len(expected["files"]) > 200
    assert len({one["kind"] for one in expected["files"]}) == 19
    assert json.loads((folder / "metadata.json").read_text())["acceptance"][3]["threshold"] is not None
    return folder, expected


def test_conformance_set_does_not_overwrite_what_is_not_one(run, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match=r"--conformance .* holds something else"):
        export.export(run.path, images=0, output=tmp_path / "other" / "model.onnx", conformance=tmp_path)


def check_printed(printed: str, conformance, kinds=None, error="") -> None:
    """What a program printed of each file: its name, whether it is unsure, and the probabilities."""
    folder, expected = conformance
    lines = iter(printed.splitlines())
    for one in expected["files"]:
        if kinds and one["kind"] not in kinds:
            continue
        unsure = "  unsure" if one["unsure"][error] else ""
        assert next(lines) == f"{folder / one['file']}{unsure}"
        found = [float(next(lines).split("  ")[-1]) for _ in expected["class_names"]]
        assert found == pytest.approx(one["probabilities"], abs=expected["tolerance"]), one["file"]


def test_conformance_set_is_answered_without_torch_as_the_run_answers(conformance):
    folder, expected = conformance
    words = [sys.executable, SCRIPT.with_name("predict_without_torch.py"), "model.onnx"]
    words += [folder / one["file"] for one in expected["files"]] + ["--max-error", "0.1"]
    done = subprocess.run(list(map(str, words)), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check_printed(done.stdout, conformance, error="0.1")


def test_conformance_set_is_answered_in_the_browser_as_the_run_answers(conformance, opened):
    place, expected = conformance
    opened.evaluate(
        """() => {
          window.found = async bytes => {
            const bitmap = await decoded(new File([Uint8Array.from(atob(bytes), c => c.charCodeAt(0))], "x"));
            const one = await answer(await session(), pixelsOf(bitmap), bitmap.height, bitmap.width);
            return [one.probabilities, one.novelty, doubtOf(one) !== ""];
          };
        }"""
    )
    off = {}
    for one in (one for one in expected["files"] if one["browser"]):
        content = base64.b64encode((place / one["file"]).read_bytes()).decode()
        found, novelty, unsure = opened.evaluate("bytes => found(bytes)", content)
        difference = np.abs(np.array(found) - one["probabilities"]).max()
        wrong = difference > expected["tolerance"] or abs(novelty / one["novelty"] - 1) > 0.01
        if wrong or unsure != one["unsure"]["0.1"]:
            off[one["file"]] = float(difference)
    assert off == {}


def test_conformance_set_is_answered_in_node_as_the_run_answers(conformance, tmp_path):
    folder, expected = conformance
    node, npm = shutil.which("node"), shutil.which("npm")
    places = os.environ.get("NODE_PATH", "").split(os.pathsep)
    home = next((Path(one) for one in places if one and (Path(one) / "onnxruntime-node").is_dir()), None)
    if not (node and npm and home and (home / "sharp").is_dir()):
        pytest.skip("no onnxruntime-node and sharp in NODE_PATH")
    (tmp_path / "node_modules").symlink_to(home)
    script = shutil.copy(SCRIPT, tmp_path)
    # What sharp reads of 8 bits; AVIF and CMYK it decodes otherwise.
    kinds = {"size", "orientation", "orientation in WebP", "colours", "transparency", "JPEG", "GIF", "WebP"}
    files = [folder / one["file"] for one in expected["files"] if one["kind"] in kinds]
    words = [node, script, folder / "model.onnx", *files]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check_printed(done.stdout, conformance, kinds)


def answers_of(page) -> int:
    return len(page.query_selector_all("article"))


@pytest.mark.parametrize("name", ["paste", "drop"])
def test_pictures_are_pasted_and_dropped(name, pictures, opened):
    kind, transfer = {"paste": ("ClipboardEvent", "clipboardData"), "drop": ("DragEvent", "dataTransfer")}[name]
    before = answers_of(opened)
    opened.evaluate(
        """([bytes, name, kind, transfer]) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "a.png"));
          dispatchEvent(new window[kind](name, {[transfer]: data, bubbles: true, cancelable: true}));
        }""",
        [list(pictures[0].read_bytes()), name, kind, transfer],
    )
    wait_for(opened, "article", before + 1)
    assert opened.query_selector("article:first-of-type tr")


def test_new_answers_stand_on_top_and_classes_are_named_at_the_start(pictures, opened):
    assert all(name in opened.inner_text("header") for name in NAMES)
    for files in (pictures[:2], pictures[2:3]):
        wanted = answers_of(opened) + len(files)
        opened.set_input_files("#pictures", files)
        wait_for(opened, "article", wanted)
    names = [one.inner_text() for one in opened.query_selector_all("article .name")[:3]]
    assert names == [pictures[2].name, pictures[0].name, pictures[1].name]


def test_weights_are_carried_once_and_the_file_is_made_of_them(exported, folder, opened, tmp_path):
    assert weights_of(folder) == exported.read_bytes()
    assert {path.suffix for path in folder.iterdir()} == {".html", ".css", ".js"}
    with opened.expect_download() as download:
        opened.click("#model")
    assert download.value.suggested_filename == "model.onnx"
    download.value.save_as(tmp_path / "saved.onnx")
    assert (tmp_path / "saved.onnx").read_bytes() == exported.read_bytes()


def test_an_unsure_answer_of_the_served_page_has_no_bars(run, pictures):
    classifier = Classifier(run.path, 0.1)
    for answer in classifier.answers(pictures):
        page = served.answers_html([answer], classifier, Texts("en"))
        assert ('class="bar"' in page) == (answer.doubt is None)


def test_small_file_of_a_study_is_taken_and_named(copy, folder, runtime, tmp_path, caplog):
    small = shutil.copy(Path(__file__).parent / "old_run" / "run" / "model.onnx", copy.path / "small.onnx")
    page = Path(shutil.copytree(folder, tmp_path / "page"))
    (page / "model.onnx").touch()  # as pages had it before
    caplog.set_level("INFO")
    write_static(copy.path, page, runtime=runtime)
    (tmp_path / "carried.onnx").write_bytes(weights_of(page))
    assert OnnxModel(tmp_path / "carried.onnx").class_names == OnnxModel(Path(small)).class_names != NAMES
    assert "small.onnx, the small file of the study" in caplog.text and "best.ckpt" in caplog.text
    assert not (page / "model.onnx").exists()


def test_of_many_classes_the_first_are_named():
    assert served.classes_named(["a", "b"], Texts("en")) == "It tells apart: a · b."
    many = served.classes_named([f"c{i}" for i in range(100)], Texts("en"))
    assert "c29, and 70 more" in many and "c30" not in many


def test_texts_of_the_folder_need_no_python():
    for key in TEXTS:
        for text in entries()[key].values():
            assert isinstance(text, str), f"{key}: there are no plurals in the page"
            assert set(re.findall(r"{(.*?)}", text)) <= {"error", "format", "names", "n"}, key


def test_without_npm_and_network_it_says_how_else(run, exported, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=rf"npm is not installed.*\n.*{VERSION}.tgz .*--onnxruntime-web FILE"):
        write_static(run.path, tmp_path / "page")
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho npm error network down >&2; exit 1\n")
    npm.chmod(0o755)
    with pytest.raises(UserError, match="could not fetch it: npm error network down"):
        write_static(run.path, tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_runtime_that_is_another_is_refused(tmp_path):
    (tmp_path / "dist").mkdir()
    for name in HASHES:
        (tmp_path / "dist" / name).write_text("other")
    with pytest.raises(UserError, match=rf"missing or not that of onnxruntime-web {VERSION}"):
        onnxruntime_web(tmp_path)
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as archive:
        archive.add(tmp_path / "dist", "package/dist")
    for wrong in (tmp_path / "other.tgz", tmp_path / "dist" / next(iter(HASHES)), tmp_path / "nowhere"):
        with pytest.raises(UserError, match="--onnxruntime-web"):
            onnxruntime_web(wrong)


def test_runtime_is_kept_and_a_damaged_one_is_not_used(runtime, cache_home, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert set(onnxruntime_web(runtime)) == set(HASHES)
    assert set(onnxruntime_web()) == set(HASHES), "from the cache"
    (cache_home / f"onnxruntime-web-{VERSION}" / next(iter(HASHES))).write_text("damaged")
    with pytest.raises(UserError, match="npm is not installed"):
        onnxruntime_web()


def test_place_that_cannot_be_written_is_named(run, exported, runtime, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--static .*file/page cannot be written"):
        write_static(run.path, tmp_path / "file" / "page", runtime=runtime)


def test_page_of_somebody_else_is_not_overwritten(tmp_path):
    (tmp_path / "index.html").write_text("<h1>My page</h1>")
    with pytest.raises(UserError, match=r"index.html was not made by this command"):
        write_static("run", tmp_path)
    assert (tmp_path / "index.html").read_text() == "<h1>My page</h1>"


def test_onnx_file_is_made_anew_for_a_newer_checkpoint_and_of_no_other(copy):
    file = copy.path / "model.onnx"
    written = file.stat().st_mtime_ns
    assert onnx_file(copy.path) == file
    assert file.stat().st_mtime_ns == written
    os.utime(copy.best)
    onnx_file(copy.path)
    assert file.stat().st_mtime_ns > written
    written = file.stat().st_mtime_ns
    validation = (copy.path / "validation.csv").read_text().splitlines(keepends=True)
    (copy.path / "validation.csv").write_text("".join(validation[:-20]))  # as after decisions on labels
    with np.load(copy.path / "features.npz") as content:
        np.savez(copy.path / "features.npz", **{**content, "distances": content["distances"][:-20]})
    onnx_file(copy.path)
    assert file.stat().st_mtime_ns > written
    with pytest.raises(UserError, match=r"last.ckpt is not the checkpoint that the run kept"):
        onnx_file(copy.last)
