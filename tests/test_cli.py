"""The commands as a user meets them: one message, exit code 2, nothing of Hydra's or Python's own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
from commands import command, commands, started

from imgbench import cli
from imgbench.cli import plain_words
from imgbench.compression.target import Target
from imgbench.errors import UserError
from imgbench.hydra_entry import interruption_explained
from imgbench.inference.onnx_file import write_onnx
from imgbench.run import Run
from imgbench.training.checkpoint import load_classifier


def assert_plain(done: subprocess.CompletedProcess[str], *named: str) -> None:
    err = done.stderr
    assert done.returncode == 2, err
    assert err.startswith("\nError: "), err
    assert all(name in err for name in named), err
    for strange in (
        "Traceback",
        "HYDRA_FULL_ERROR",
        "Error executing job",
        "hydra.cc",
        "full_key",
        "Config search path",
    ):
        assert strange not in err


WRONG = {
    "model=vgg99": "There are: auto, cnn",
    "optimizer=adamm": "did you mean adam",
    "dta=potato": "did you mean data",
    "data.imagesize=3": "did you mean data.image_size",
    "optimizer.lr": "expected key=value",
    "=3": "expected key=value",
    "nowhere": "nowhere is not understood: there is no such folder",
    "data.root=[": "data.root=[ is not understood",
    "~callbacks.foo": "callbacks.foo",
    "model=null": "model=null, but it is auto",
    "model=cnn,vgg16": "imgbench.train -m",
    "hydra/launcher=joblibb": "hydra/launcher=joblibb",
    "--config-name=nothing": "nothing",
    "--config-dir=nowhere": "nowhere",
}
SHOWN_SWEPT = (["--cfg", "hydra"], ["-c", "job"], ["--info"])


def test_wrong_word_is_named_and_nothing_else_is_said(tmp_path):
    lines = [["train", word] for word in WRONG]
    lines += [["summary", "model=vgg99"], ["train", "--cfg", "job", "model=vgg99"], ["train", "-m", "model=vgg99,cnn"]]
    lines += [["train", "-m", *words] for words in SHOWN_SWEPT]
    expected = [*WRONG.values(), *["There are: auto"] * 3, *["shows one configuration, and -m runs several"] * 3]
    for result, named in zip(commands(*lines, cwd=tmp_path), expected, strict=True):
        assert_plain(result, named)
    assert not list(tmp_path.rglob("run.json"))


def test_value_that_nothing_can_use_is_named_before_the_data_is_read(tmp_path):
    words = {
        "optimizer.lr=abc": "optimizer.lr=abc, but it should be a number",
        "trainer.max_epochs=abc": "trainer.max_epochs=abc, but it should be a whole number",
        "callbacks.best.standard_errors=x": "callbacks.best.standard_errors=x, but it should be a number",
        "data.batch_size=2.5": "data.batch_size=2.5, but it should be a whole number",
        "fast.threads=x": "fast.threads=x, but it should be a whole number or null",
        "seed=x": "seed='x', but it should be a whole number",
        "monitor=${oc.env:NO_SUCH_VARIABLE}": "NO_SUCH_VARIABLE",
    }
    results = commands(*[["train", "hydra.run.dir=run", word] for word in words], cwd=tmp_path)
    for result, named in zip(results, words.values(), strict=True):
        assert_plain(result, named)
        assert result.stdout == ""
    assert Run(tmp_path / "run").info["status"] == "failed"


def test_sweep_says_the_same_and_goes_on(tmp_path):
    done = command("train", "-m", "optimizer.lr=abc,def", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("The sweep goes on without this run.") == 2
    assert "optimizer.lr=def, but it should be a number" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("failed") == 2


def test_run_again_takes_choices_and_nothing_of_hydra_from_the_run(tiny_run, tmp_path):
    shutil.copytree(tiny_run.path, tmp_path / "run")
    evil = "hydra: {run: {dir: pwned}, job: {env_set: {PWNED: y}}, callbacks: {x: {_target_: os.system, command: x}}}\n"
    config = tmp_path / "run" / "config.yaml"
    config.write_text(f"defaults: [/evil]\n{evil}" + config.read_text())
    again = ["train", "--config-dir", "run", "--config-name", "config"]
    lines = [
        [*again, "--cfg", "job", "--resolve"],
        [*again, "--cfg", "hydra"],
        ["train", "--config-dir=run", "optimizer=sgd", "data.image_size=32", "--cfg", "job", "--resolve"],
        ["train", "-cp", "run", "-cn", "config", "--cfg", "hydra"],
        ["summary", "--config-dir", "run", "model=compact"],
    ]
    same, hydra, changed, by_path, summary = commands(*lines, cwd=tmp_path)
    assert all(done.returncode == 0 for done in (same, hydra, changed, by_path, summary))
    assert f"root: {tiny_run.config['data']['root']}" in same.stdout and "max_epochs: 1\n" in same.stdout
    assert "pwned" not in (hydra.stdout + by_path.stdout).lower()
    assert "torch.optim.SGD" in changed.stdout and changed.stdout.count("image_size: 32") == 2
    assert "CompactCNN" in summary.stdout
    assert not (tmp_path / "pwned").exists()


def test_every_command_that_reads_a_run_refuses_a_foreign_configuration(tiny_run, tmp_path):
    run = Run(tmp_path / "run")
    shutil.copytree(tiny_run.path, run.path)
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text + "note: ${oc.env:HOME}\n")
    lines = [["evaluate", "run"], ["export", "run"], ["compress", "run", "prune"], ["ladder", "run"],
             ["train", "--config-dir", "run", "--config-name", "config"], ["train", "--config-dir=run"],
             ["train", "-cd", "run", "-cn", "config.yaml"],
             ["summary", "--config-path", "run", "--config-name", "config"],
             ["train", "--config-dir", "run", "--cfg", "job", "--resolve"]]  # fmt: skip
    for result in commands(*lines, cwd=tmp_path):
        assert_plain(result, "run/config.yaml", "${oc.env:HOME}")
        assert os.environ["HOME"] not in result.stderr.replace("${oc.env:HOME}", "")


def test_place_that_cannot_be_written_names_the_option(tiny_run, tmp_path):
    (tmp_path / "file").touch()
    photo = next(Path(tiny_run.config["data"]["root"]).glob("*/*"))
    run = str(tiny_run.path)
    lines = [
        ["train", "hydra.run.dir=file/run"],
        ["evaluate", run, "--output", "file/out"],
        ["export", run, "--images", "0", "--output", "file/out.onnx"],
        ["predict", run, str(photo), "--output", "file/out.csv"],
        ["predict", run, str(photo), "--save-images", "file/out"],
    ]
    for line, result in zip(lines, commands(*lines, cwd=tmp_path), strict=True):
        assert_plain(result, "file", line[-2] if len(line) > 2 else "hydra.run.dir")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device", "run/x"), "run/x: No space left on device.\n--output DIR puts"),
        (OSError(30, "Read-only file system", "x"), "x: Read-only file system.\n--output DIR puts"),
        (FileNotFoundError(2, "No such file or directory", "x"), "x: No such file or directory."),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused."),
        (UserError("as it is"), "as it is"),
    ],
)
def test_hint_fits_the_error(error, expected):
    assert plain_words(error, "--output DIR").startswith(expected)
    assert ("puts" in plain_words(error, "--output DIR")) == ("puts" in expected)


def test_folder_that_cannot_be_read_gets_no_hint_of_the_output(tmp_path, monkeypatch):
    monkeypatch.setattr(cli.os, "access", lambda path, mode: False)  # root reads everything
    error = PermissionError(13, "Permission denied", str(tmp_path))
    assert plain_words(error, "hydra.run.dir=DIR") == f"{tmp_path}: Permission denied."


def test_error_that_says_nothing_keeps_its_stack_trace():
    with pytest.raises(OSError, match="a bug"):
        plain_words(OSError("a bug"), "--output DIR")


WITHOUT_TORCH = """
import json, runpy, sys
for words in json.loads(sys.argv[1]):
    sys.argv = [f"imgbench.{words[0]}", *words[1:]]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        print("code", end.code or 0, file=sys.stderr, flush=True)
print("torch" in sys.modules, "lightning" in sys.modules)
"""


def without_torch(*lines: Sequence[object], cwd: Path) -> list[str]:
    """What commands say that have to come to their ends without torch, whose import takes seconds; with their codes."""
    line = [sys.executable, "-c", WITHOUT_TORCH, json.dumps([list(map(str, words)) for words in lines])]
    done = subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("False False\n"), done.stdout + done.stderr
    *said, rest = re.split(r"(?<=code \d)\n", done.stderr)
    assert (len(said), rest) == (len(lines), "")
    return said


def test_error_about_data_names_or_options_needs_no_torch(tmp_path, make_folder):
    make_folder(tmp_path / "photos", {"only": 1})
    lines = {
        "train data=folder data.root=nowhere": "data.root: nowhere should be a folder of images",
        "train data=folder": "data.root is not set",
        "train data=folder data.root=photos": "it takes at least 2",
        "train optimizer.lr=abc": "optimizer.lr=abc, but it should be a number",
        "train data.image_size=0": "data.image_size=0, but it should be 1 to 8192",
        "train ckpt_path=nowhere": "ckpt_path=nowhere does not exist",
        "train init_from=nowhere": "nowhere does not exist",
        "train data=sneakers budget=abc": "budget=abc, but it is a number of minutes",
        "train data=sneakers model.candidates=[vgg17]": "model.candidates=['vgg17'], but they are any of",
        "study budget=abc": "budget='abc', but it should be a number",
        "study target=small": "target='small': 'small' is not understood",
        "train --resume nowhere": "nowhere does not exist",
        "predict nowhere .": "nowhere does not exist",
        "predict nowhere absent.jpg": "absent.jpg does not exist",
        "evaluate nowhere": "nowhere does not exist",
    }
    said = without_torch(*(line.split() for line in lines), cwd=tmp_path)
    for text, named in zip(said, lines.values(), strict=True):
        assert named in text
        assert text.endswith("code 2")


def test_prediction_from_an_onnx_file_needs_no_torch(tiny_run, tmp_path):
    write_onnx(load_classifier(tiny_run.best), tmp_path / "model.onnx")
    photo = next(Path(tiny_run.config["data"]["root"]).glob("*/*"))
    [said] = without_torch(["predict", "model.onnx", photo, "--output", "out.csv"], cwd=tmp_path)
    assert said.endswith("code 0")
    assert (tmp_path / "out.csv").read_text().startswith("path,predicted")


def test_training_whose_output_nobody_reads_comes_to_its_end(tmp_path, make_folder):
    make_folder(tmp_path / "photos", {"cat": 16, "dog": 16})
    words = ["data=folder", "data.root=photos", "model=cnn", "data.image_size=20", "trainer.max_epochs=1"]
    with started("train", *words, "hydra.run.dir=run", cwd=tmp_path) as process:
        process.stdout.close()
    assert process.stderr == ""
    assert process.returncode == 0
    assert Run(tmp_path / "run").status == "finished"


def test_command_whose_output_nobody_reads_ends_without_a_word(tiny_run, tmp_path):
    with started("evaluate", tiny_run.path, cwd=tmp_path) as process:
        process.stdout.close()
    assert "Traceback" not in process.stderr and "Broken" not in process.stderr
    assert process.returncode == 141


def test_connection_that_breaks_is_an_error_of_its_own(monkeypatch, capsys):
    def upload():
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(SystemExit) as end:
        cli.guarded_main(upload)
    assert end.value.code == 2
    assert "Broken pipe" in capsys.readouterr().err


def test_folder_may_be_called_like_a_number_a_truth_value_or_a_reference(tmp_path):
    names = ["2024", "true", "1e3", "${y}"]
    lines = [["train", "data=folder", f"data.root={name}"] for name in names]
    for name, result in zip(names, commands(*lines, cwd=tmp_path), strict=True):
        expected = f"data.root={name} refers to" if name == "${y}" else f"data.root: {name} should be a folder"
        assert_plain(result, expected)
    for name in names:
        (tmp_path / name).mkdir()
    for result in commands(*lines, cwd=tmp_path):
        assert_plain(result, "it takes at least 2")


def test_ctrl_c_says_how_to_go_on(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = Run(Path(shutil.copytree(tiny_run.path, tmp_path / "my study")))
    for begun, said in ((run, "To go on: imgbench study --resume 'my study'\n"), (Run(tmp_path), "repeat the command")):
        with pytest.raises(KeyboardInterrupt), interruption_explained("study", begun):
            raise KeyboardInterrupt
        assert said in capsys.readouterr().out


def test_options_come_from_the_signature_and_its_docstring(tiny_run):
    def command(
        run: str,
        where: str | Path | None = None,
        share: float = 0.5,
        kind: Literal["a", "b"] = "a",
        on: bool = False,
        names: Sequence[str] | None = None,
        target: Target | None = None,
        other: Run | None = None,
    ):
        """Does something.

        Args:
            run: a run.
            where: a place,
                100 % of it.
            share: of all.
            kind: one of two.
            on: whether.
            names: of them.
            target: to reach.
            other: a run.

        Raises:
            UserError: never.
        """

    parser = cli.run_parser("x", None, "")
    cli.add_options(parser, command)
    words = ["RUN", "--where", "a b", "--share", "0.25", "--kind", "b", "--on", "--names", "a,b",
             "--target", "size<=2MB", "--other", str(tiny_run.path)]  # fmt: skip
    parsed = {"run": "RUN", "where": Path("a b"), "share": 0.25, "kind": "b", "on": True, "names": ["a", "b"],
              "target": Target(size=2), "other": Run(tiny_run.path)}  # fmt: skip
    assert vars(parser.parse_args(words)) == parsed
    defaults = {"where": None, "share": 0.5, "kind": "a", "on": False, "names": None, "target": None, "other": None}
    assert vars(parser.parse_args(["RUN"])) == {"run": "RUN", **defaults}
    assert "a place, 100 % of it" in " ".join(parser.format_help().split())
    assert "of all (default: 0.5)" in parser.format_help()
    with pytest.raises(SystemExit):
        parser.parse_args(["RUN", "--kind", "c"])


@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_line_is_printed_once_whenever_ctrl_c_comes(tmp_path):
    program = (
        "import signal\n"
        "from imgbench.cli import go_on_unread\n"
        "go_on_unread()\n"
        "signal.signal(signal.SIGUSR1, signal.default_int_handler)\n"  # Ctrl-C from the reader, many times
        "for number in range(200):\n"
        "    try:\n"
        "        print(number)\n"
        "        while True:\n"  # a call that waits would overlook a signal that comes right before it
        "            pass\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
    )
    line = [sys.executable, "-c", program]
    lines: list[str] = []
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            lines.append(text.strip())
            process.send_signal(signal.SIGUSR1)
    assert lines == [str(number) for number in range(200)]


@pytest.mark.parametrize(("own", "expected"), [(None, "passive"), ("active", "active")])
def test_threads_wait_without_spinning_unless_the_user_says_otherwise(own, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    program = (
        "import os, sys\n"
        "from imgbench.cli import errors_in_plain_words\n"
        "with errors_in_plain_words('DIR'):\n"
        "    assert 'torch' not in sys.modules\n"
        "    print(os.environ['OMP_WAIT_POLICY'])\n"
    )
    environment |= {"OMP_WAIT_POLICY": own} if own else {}
    line = [sys.executable, "-c", program]
    assert subprocess.run(line, env=environment, capture_output=True, text=True).stdout == f"{expected}\n"
