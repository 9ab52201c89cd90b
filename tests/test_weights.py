"""Weights of networks of timm: where they come from, what is refused, and what is said of their licence."""

import os
import pickle
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import timm
import torch
from safetensors.torch import save_file

from imgbench.errors import UserError
from imgbench.models.backbone import timm_classifier
from imgbench.models.weights import described_weights, facts_of_weights, find_weights, read_weights

SMALL = "mobilenetv3_small_050"


@pytest.fixture(scope="session")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return timm.create_model(SMALL).state_dict()


def build(path: Path | str, name: str = SMALL):
    return timm_classifier(name, 2, pretrained=True, weights=str(path))


def test_package_has_one_tensor_for_each_of_the_network_in_its_order():
    path = find_weights("tf_efficientnet_lite0", "package", timm.get_pretrained_cfg("tf_efficientnet_lite0"))
    file = torch.load(path, weights_only=True)
    model = timm_classifier("tf_efficientnet_lite0", 2, pretrained=True, weights="package")
    own = model.state_dict()
    for theirs, ours in {
        "_conv_stem.weight": "conv_stem.weight",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.15._bn2.running_var": "blocks.6.0.bn3.running_var",
        "_bn1.running_mean": "bn2.running_mean",
    }.items():
        assert torch.equal(file[theirs], own[ours])
    assert model.pretrained_cfg["mean"] == pytest.approx([0.498] * 3, abs=1e-3)
    assert model.pretrained_cfg["std"] == pytest.approx([0.502] * 3, abs=1e-3)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_weights_come_from_a_file(ending, state, tmp_path):
    path = tmp_path / f"weights{ending}"
    if ending == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    model = build(path)
    own = model.state_dict()
    kept = [name for name in state if not name.startswith("classifier.")]
    assert kept
    assert all(torch.equal(own[name], state[name]) for name in kept)
    assert model.get_classifier().out_features == 2


def test_weights_that_were_trained_for_other_classes_have_a_place(tmp_path):
    other = timm.create_model(SMALL, num_classes=7)
    torch.save(other.state_dict(), tmp_path / "seven.pth")
    model = build(tmp_path / "seven.pth")
    assert torch.equal(model.state_dict()["conv_stem.weight"], other.state_dict()["conv_stem.weight"])


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_truncated_file_is_refused(ending, state, tmp_path):
    path = tmp_path / f"weights{ending}"
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"weights\.(safetensors|pth) cannot be read: .*cut short.*Fetch it again"):
        build(path)


class Trap:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def test_code_in_a_file_is_not_executed(tmp_path):
    trap = {"conv_stem.weight": Trap(tmp_path / "sprung")}
    torch.save(trap, tmp_path / "new.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(trap))
    for name in ("new.pth", "old.pth"):
        with pytest.raises(UserError, match="damaged, or hold pickled code, which was not executed"):
            build(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [[1, 2], {}, {"conv_stem.weight": "text"}])
def test_file_of_something_else_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth (cannot be read|are no state dict)"):
        read_weights(tmp_path / "other.pth")


def test_weights_of_another_architecture_are_refused(tmp_path):
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(UserError, match=rf"resnet\.pth is not of model\.name={SMALL}: .*the shape \("):
        build(tmp_path / "resnet.pth")
    torch.save(timm.create_model("mobilenetv3_small_075").state_dict(), tmp_path / "wider.pth")
    with pytest.raises(UserError, match=rf"wider\.pth is not of model\.name={SMALL}: .* has the shape \("):
        build(tmp_path / "wider.pth")


@pytest.mark.parametrize("channels", [1, 4])
def test_weights_for_images_of_other_channels_are_refused(channels, tmp_path):
    torch.save(timm.create_model(SMALL, in_chans=channels).state_dict(), tmp_path / "grey.pth")
    with pytest.raises(UserError, match=rf"grey\.pth is not .*for images of {channels} channels"):
        build(tmp_path / "grey.pth")


def test_missing_file_and_missing_package_say_what_mends_it():
    with pytest.raises(UserError, match=r"model\.weights=nowhere\.pth is no file.*hub, package"):
        build("nowhere.pth")
    with pytest.raises(UserError, match=r"no package carries the weights of mobilenetv3.*tf_efficientnet_lite0"):
        build("package")


def test_without_network_and_cache_the_error_says_where_weights_can_come_from(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"(?s)resnet10t\.c3_in1k are not in .*cache.*HF_ENDPOINT=.*model\.weights=PATH"
    ):
        build("hub", "resnet10t.c3_in1k")


@pytest.mark.parametrize(
    ("license", "warning"),
    [
        ("apache-2.0", None),
        ("cc-by-nc-4.0", "not for commercial use (licence: cc-by-nc-4.0)"),
        ("fair-noncommercial-research-license", "not for commercial use"),
        (None, "is unknown: find out"),
    ],
)
def test_licence_of_the_weights_is_said(license, warning):
    class Network:
        pretrained_cfg = {"license": license}  # noqa: RUF012

    facts = facts_of_weights({"name": SMALL, "weights": "hub"}, Network)
    line, warnings = described_weights({"weights": facts})
    assert line == f"{SMALL} from hub, licence: {license or 'unknown'}"
    assert len(warnings) == (warning is not None)
    assert not warning or warning in warnings[0]


def test_licence_of_a_file_is_not_taken_from_the_name_of_the_network(state, tmp_path):
    torch.save(state, tmp_path / "mine.pth")
    model = {"name": SMALL, "weights": str(tmp_path / "mine.pth")}
    assert facts_of_weights(model, build(tmp_path / "mine.pth"))["license"] == "unknown"


def test_model_without_pretrained_weights_says_nothing():
    assert described_weights({"data": "folder"}) == (None, [])


class Mirror(BaseHTTPRequestHandler):
    """What a hub answers for one file of one repository, `content`."""

    content = b""

    def do_HEAD(self):
        known = self.path == f"/timm/{SMALL}.lamb_in1k/resolve/main/model.safetensors"
        self.send_response(200 if known else 404)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(self.content) if known else 0))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, format, *args):
        pass


def test_weights_come_from_a_mirror_of_the_hub_and_then_from_the_cache(state, tmp_path):
    save_file(state, tmp_path / "weights.safetensors")
    Mirror.content = (tmp_path / "weights.safetensors").read_bytes()
    script = f"""
from imgbench.models.backbone import timm_classifier
for _ in range(2):
    model = timm_classifier("{SMALL}.lamb_in1k", 2, pretrained=True)
    print(float(model.conv_stem.weight.sum()), flush=True)
    input()
"""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    Thread(target=server.serve_forever).start()
    # Read when the hub's library is imported, so that another process it has to be.
    place = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path), "no_proxy": "127.0.0.1"}
    line, pipe = [sys.executable, "-c", script], subprocess.PIPE
    with subprocess.Popen(
        line, env={**os.environ, **place}, text=True, stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        server.shutdown()
        server.server_close()
        second, error = process.communicate("\n\n", timeout=120)
    assert process.returncode == 0, error
    assert float(first) == float(second) == pytest.approx(float(state["conv_stem.weight"].sum()), abs=1e-4)
