"""The model card, and its upload to a stand-in that speaks the Hub's own HTTP."""

import base64
import hashlib
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imgbench import export
from imgbench.errors import UserError
from imgbench.inference import parity
from imgbench.inference.onnx_file import write_onnx
from imgbench.publish.card import _command, card, front_matter, markdown
from imgbench.run import Run
from imgbench.training.checkpoint import load_classifier

NAMES = ["<script>alert(1)</script>", "猫|狗 *x*"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_folder, train_run) -> Run:
    """A run on classes whose names mean something to HTML, Markdown and YAML, with its ONNX file."""
    home = tmp_path_factory.mktemp("share")
    folder = make_folder(home / "photos", {"a": 16, "b": 16})
    (folder / "a").rename(folder / "x <script>alert(1)<")
    (folder / "b").rename(folder / "猫|狗 *x*")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGBENCH_CACHE", str(home / "cache"))
        result = train_run(folder, home / "run")
    write_onnx(load_classifier(result.best), result.path / "model.onnx")
    return result


@pytest.fixture
def file(run, tmp_path, monkeypatch) -> Path:
    """Where a card or an upload finds the run's ONNX file: to write it anew takes a second."""
    monkeypatch.setattr(parity, "write_onnx", lambda _, place, run: shutil.copy(run.path / "model.onnx", place))
    return tmp_path / "out" / "model.onnx"


def test_card_says_to_machines_what_was_measured(run):
    hub = pytest.importorskip("huggingface_hub")
    metrics = json.loads((run.path / "metrics.json").read_text())
    found = hub.ModelCard(card(run, run.path / "model.onnx"), ignore_metadata_errors=False).data
    assert (found.pipeline_tag, found.library_name, found.license) == ("image-classification", "onnx", "unknown")
    results = {result.metric_type: result for result in found.eval_results}
    assert results["accuracy"].metric_value == metrics["test/acc"]["value"]
    assert results["accuracy"].dataset_split == "test"
    assert (
        hub.repocard_data.eval_results_to_model_index(found.model_name, found.eval_results)
        == (front_matter(card(run, run.path / "model.onnx"))["model-index"])
    )


def test_card_says_to_readers_what_it_rests_on(run):
    text = card(run, run.path / "model.onnx")
    assert re.search(r"- Accuracy: \d.* % \(\d+ of \d+; 95 % interval ", text)
    assert "To be filled in by the author" in text
    assert "Audit: " in text
    assert "trained from scratch" in text
    assert str(Path(run.config["data"]["root"]).parent) not in text, "where the photographs lie is nobody's business"
    assert not re.search(r"\d+\.png", text)


def test_names_of_classes_are_text_and_nothing_else(run):
    text = card(run, run.path / "model.onnx")
    assert "| x &lt;script&gt;alert(1)&lt; | " in text
    assert r"| 猫\|狗 \*x\* | " in text
    assert "<script>" not in text
    assert markdown("a\nb `c` [d](e)") == r"a b \`c\` \[d\](e)"


def test_card_stays_with_what_its_author_wrote(run, file, capsys):
    export.export(run.path, file, images=0, card=True)
    place = file.parent / "README.md"
    place.write_text(place.read_text() + "For leaves only.\n")
    export.export(run.path, file, images=0, card=True)
    assert place.read_text().endswith("For leaves only.\n")
    place.write_text(re.sub("value: .*", "value: 2", place.read_text()))
    with pytest.raises(UserError, match=r"README\.md is the card of other results"):
        export.export(run.path, file, images=0, card=True)
    place.write_text("# My project\n")
    with pytest.raises(UserError, match="no model card of imgbench; it stays"):
        export.export(run.path, file, images=0, card=True)
    assert place.read_text() == "# My project\n"


class StandIn(BaseHTTPRequestHandler):
    """Those of the Hub's requests that an upload makes: create, check the card, preupload, LFS batch, PUT, commit."""

    def answer(self, content: object, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.git-lfs+json" if "lfs" in self.path else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self) -> None:
        server, body = self.server, self.body()
        assert isinstance(server, Server)
        here = f"http://127.0.0.1:{server.server_port}"
        server.asked.append(self.path)
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self.answer({"error": "Invalid token"}, 401)
        if self.path == "/api/repos/create":
            server.created.append(json.loads(body))
            return self.answer({"url": f"{here}/me/leaves"})
        if self.path == "/api/validate-yaml":
            known = "model-index" in front_matter(json.loads(body)["content"])
            return self.answer({"errors": [] if known else [{"message": "no model-index"}]}, 200 if known else 400)
        if self.path.startswith("/api/models/me/leaves/preupload/"):
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".onnx") else "regular" for name in files}
            return self.answer(
                {"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]}
            )
        if self.path == "/me/leaves.git/info/lfs/objects/batch":
            objects = json.loads(body)["objects"]
            actions = [{**o, "actions": {"upload": {"href": f"{here}/put/{o['oid']}", "header": {}}}} for o in objects]
            return self.answer({"transfer": "basic", "objects": actions})
        if self.path.startswith("/api/models/me/leaves/commit/"):
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    server.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    server.files[value["path"]] = server.stored[value["oid"]]
                else:
                    assert line["key"] == "header", line
            return self.answer({"commitUrl": f"{here}/me/leaves/commit/abc", "commitOid": "abc"})
        return self.answer({"error": f"{self.path} is not there"}, 404)

    def do_PUT(self) -> None:
        server, body = self.server, self.body()
        assert isinstance(server, Server)
        assert hashlib.sha256(body).hexdigest() == self.path.removeprefix("/put/")
        if server.breaks:
            return self.answer({"error": "disk failure"}, 500)
        server.stored[self.path.removeprefix("/put/")] = body
        return self.answer({})

    def do_GET(self) -> None:
        self.answer({"error": "not there"}, 404)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), StandIn)
        self.breaks = False
        self.created: list[dict[str, object]] = []
        self.asked: list[str] = []
        self.stored: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}


@pytest.fixture
def hub(monkeypatch):
    """The stand-in, to which huggingface_hub is directed as if it were the Hub."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(
        constants, "HF_HUB_DISABLE_XET", True
    )  # a binary protocol; LFS, which the Hub takes too, is HTTP
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own use of httpx
def test_file_and_card_and_nothing_else_are_uploaded(run, file, hub, capsys):
    export.export(run.path, file, images=0, push_to_hub="me/leaves")
    assert hub.files == {"model.onnx": file.read_bytes(), "README.md": (file.parent / "README.md").read_bytes()}
    assert hub.created[0]["name"] == "leaves" and "private" in json.dumps(hub.created[0])
    assert re.search(
        r"Uploaded http://127.0.0.1:\d+/me/leaves: model.onnx and README.md, and no photograph", capsys.readouterr().out
    )


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_upload_that_breaks_off_is_said_to_and_can_be_repeated(run, file, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # before it tries again
    hub.breaks = True
    with pytest.raises(UserError, match=r"(?s)--push-to-hub me/leaves: .*500.*Nothing is lost: .*model\.onnx"):
        export.export(run.path, file, images=0, push_to_hub="me/leaves")
    assert hub.files == {}
    hub.breaks = False
    export.export(run.path, file, images=0, push_to_hub="me/leaves")
    assert set(hub.files) == {"model.onnx", "README.md"}


def test_metadata_that_the_hub_refuses_is_named(run, file, hub):
    file.parent.mkdir()
    export.export(run.path, file, images=0, card=True)
    place = file.parent / "README.md"
    place.write_text(place.read_text().replace("library_name: onnx", "library_name: {"))
    with pytest.raises(UserError, match=r"README\.md: the lines between `---` are no YAML"):
        export.export(run.path, file, images=0, push_to_hub="me/leaves")
    assert hub.files == {}


def test_wrong_token_is_said_to_be(run, file, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(
        UserError, match=r"(?s)--push-to-hub me/leaves: the Hub refuses \(401\).*is written.*hf auth login"
    ):
        export.export(run.path, file, images=0, push_to_hub="me/leaves")
    assert not hub.files and file.exists()


def test_without_network_the_file_is_kept(run, file, hub, monkeypatch):
    hub.socket.close()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # the port of `discard`: nobody
    with pytest.raises(
        UserError, match=r"(?s)http://127\.0\.0\.1:9 cannot be reached, or broke off.*Nothing is lost: .*model\.onnx"
    ):
        export.export(run.path, file, images=0, push_to_hub="me/leaves")
    assert file.exists()


@pytest.mark.parametrize("name", ["a b", "a/b/c", "", "-a", "猫"])
def test_name_that_cannot_be_one_ends_it_before_anything_is_computed(name, run, file, monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    with pytest.raises(UserError, match="expected NAME or ACCOUNT/NAME"):
        export.export(run.path, file, images=0, push_to_hub=name)
    assert not file.exists()


def test_nobody_logged_in_ends_it_before_anything_is_computed(run, file, monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no token"))
    with pytest.raises(UserError, match=r"nobody is logged in\. Log in with: hf auth login"):
        export.export(run.path, file, images=0, push_to_hub="me/leaves")
    assert not file.exists()


def test_package_that_is_missing_is_named(run, file, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install \"imgbench\[hub\]\""):
        export.export(run.path, file, images=0, push_to_hub="me/leaves")


def test_card_keeps_no_root_of_the_data_however_it_was_typed():
    command = "python -m imgbench.train data=folder data.root=patients 'data.root=my patients' seed=1 'budget=2'"
    assert _command({"command": command}) == "python -m imgbench.train data=folder seed=1 budget=2"
