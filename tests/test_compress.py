"""Smaller runs of a run, from the command line."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest
import torch
from commands import command, commands
from omegaconf import OmegaConf

import imgbench
from imgbench import compress, evaluate
from imgbench.compression import measure
from imgbench.compression.channels import zero_share
from imgbench.compression.options import METHODS, Distill, Prune, Quantize
from imgbench.compression.prune import finetuning
from imgbench.errors import UserError
from imgbench.experiment.compose import override
from imgbench.models.narrow import layer_widths
from imgbench.run import Run
from imgbench.training.checkpoint import load_classifier

FILES = {"config.yaml", "run.json", "split.csv", "audit.json", "summary.txt", "metrics.csv", "metrics.json",
         "predictions.csv", "validation.csv", "features.npz", "checkpoints", "samples.png", "curves.png",
         "confusion.png", "reliability.png", "report.html"}  # fmt: skip


@pytest.fixture(autouse=True)
def few_calls_measured(monkeypatch):
    """Milliseconds are those of a few calls, not of half a second of them."""
    monkeypatch.setattr(measure.latency_ms, "__defaults__", (0.01, 5))


@pytest.fixture
def parent(tiny_run, tmp_path) -> Run:
    """A copy of the finished run, in a folder with an awkward name."""
    path = tmp_path / "a=b (1)" / "run"
    shutil.copytree(tiny_run.path, path)
    return Run(path)


@pytest.fixture
def run_compress(parent, monkeypatch):
    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["compress", str(parent.path), *map(str, words)])
        compress.main()

    return run


def accuracy(run: Run) -> float:
    return json.loads((run.path / "metrics.json").read_text())["test/acc"]["value"]


MADE = {
    "prune": ["prune", "--amount", "0.5", "trainer.max_epochs=1"],
    "zeros": ["prune", "--unstructured", "trainer.max_epochs=2", "optimizer.lr=0.01"],
    "reuse": ["reuse", "+model.hidden=[16]", "trainer.max_epochs=2"],
    "distill": ["distill", "model=compact", "--alpha", "0.5", "data.image_size=16", "optimizer.lr=0.01"],
}


@pytest.fixture(scope="module")
def made(tiny_run, tmp_path_factory):
    """What the words of `MADE` make of the finished run, and what is said, once for all tests: (parent, run, said)."""

    @cache
    def make(name: str) -> tuple[Run, Run, str]:
        home = tmp_path_factory.mktemp(name)
        parent = Run(shutil.copytree(tiny_run.path, home / "a=b (1)" / "run"))
        words = ["compress", str(parent.path), *MADE[name]]
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
            patch.setenv("IMGBENCH_CACHE", str(home / "cache"))
            patch.setattr(sys, "argv", words)
            compress.main()
        return parent, Run.open(f"{parent.path}_{words[2]}"), said.getvalue()

    return make


def test_distilled_run_is_a_run_like_any_other(made, monkeypatch):
    parent, run, shown = made("distill")
    assert {path.name for path in run.path.iterdir()} == FILES
    assert (run.path / "split.csv").read_text() == (parent.path / "split.csv").read_text()
    assert run.info["status"] == "finished"
    assert run.info["method"] == "distill"
    assert run.info["compressed_from"]["path"] == str(parent.path)
    assert len(run.info["compressed_from"]["sha256"]) == 64
    assert run.info["facts"]["alpha"] == run.config["objective"]["alpha"] == 0.5
    assert run.info["facts"]["temperature"] == 4
    assert run.config["model"]["image_size"] == 16
    assert (run.config["model_name"], run.config["optimizer"]["lr"]) == ("compact", 0.01)
    assert "${" not in json.dumps(run.config)
    assert run.config["init_from"] is None
    assert run.info["cost"]["parameters"] < 300_000
    assert run.info["cost"]["size_mb"] == pytest.approx(run.best.stat().st_size / 1e6)
    assert run.info["cost"]["latency_ms"] > 0
    assert f"{run.info['cost']['parameters']:,}" in shown
    assert f"{run.info['parent_cost']['parameters']:,}" in shown
    assert "test accuracy" in shown and "of the CPU, in PyTorch" in shown
    monkeypatch.setattr(sys, "argv", ["evaluate", str(run.path)])
    assert evaluate.main() == 0


def test_pruned_run_has_fewer_channels_and_says_what_was_done(made):
    parent, run, _ = made("prune")
    assert {path.name for path in run.path.iterdir()} == FILES
    assert (run.path / "split.csv").read_text() == (parent.path / "split.csv").read_text()
    widths = {name: shape[0] for name, shape in layer_widths(load_classifier(run.best).model).items()}
    assert widths == {"features.0": 8, "features.3": 16, "features.7": 32, "classifier.0": 64, "classifier.3": 2}
    assert [step["amount"] for step in run.info["facts"]["steps"]] == [0.25, 0.5]
    assert run.info["facts"]["amount"] == 0.5
    assert run.info["status"] == "finished"
    assert "device" in run.info
    assert run.info["cost"]["parameters"] < run.info["parent_cost"]["parameters"] / 3
    assert run.info["cost"]["multiply_adds"] < run.info["parent_cost"]["multiply_adds"]
    assert run.config["scheduler"]["_target_"].endswith("cosine")
    assert run.config["optimizer"]["lr"] == pytest.approx(parent.config["optimizer"]["lr"] / 10)
    prediction = imgbench.load(run.path).predict(Path(run.config["data"]["root"]) / "cat" / "0.png")[0]
    assert prediction.label in ("cat", "dog")


def test_configuration_of_a_compressed_run_gives_the_same_run_again(made, tmp_path):
    pairs = [(made(name)[1], Run(tmp_path / name)) for name in MADE]
    words = ["--config-name", "config", "--config-dir"]
    lines = [["train", *words, small.path, f"hydra.run.dir={again.path}"] for small, again in pairs]
    for (small, again), done in zip(pairs, commands(*lines, cwd=tmp_path), strict=True):
        assert done.returncode == 0, done.stderr
        assert (again.path / "predictions.csv").read_text() == (small.path / "predictions.csv").read_text()
        assert again.config == small.config
        weights = [torch.load(run.best, weights_only=True)["state_dict"] for run in (small, again)]
        assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_repeated_a_command_that_was_killed_goes_on(parent, tmp_path):
    words = ["distill", "prune", "model=compact", "--amount", "0.3", "trainer.max_epochs=2"]
    line = [sys.executable, "-m", "imgbench.compress", str(parent.path), *words]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for text in process.stderr:
            if text.startswith("step 1:"):
                process.kill()
    output = Path(f"{parent.path}_distill_prune")
    distilled = Run(output / "intermediate" / "1_distill")
    begun = distilled.info["started"]
    done = command("compress", parent.path, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished earlier") == 1
    assert distilled.info["started"] == begun
    assert Run(output).info["status"] == "finished"
    assert not output.with_name(f"{output.name}_2").exists()
    whole = tmp_path / "whole"
    assert command("compress", parent.path, *words, "--output", whole).returncode == 0
    assert (output / "predictions.csv").read_text() == (whole / "predictions.csv").read_text()
    done = command("compress", parent.path, *words, "--output", whole)
    assert done.returncode == 2
    assert "exists. Nothing is overwritten" in done.stderr


def test_only_what_was_begun_by_the_same_command_goes_on(run_compress, parent, tmp_path):
    words = ["reuse", "+model.hidden=[16]", "trainer.max_epochs=1", "--output", tmp_path / "small"]
    run_compress(*words)
    run = Run(tmp_path / "small")
    run.note(status="interrupted")
    with pytest.raises(UserError, match="exists"):
        run_compress(*words, "optimizer.lr=0.5")
    parent.best.write_bytes(parent.best.read_bytes() + b" ")
    with pytest.raises(UserError, match="exists"):
        run_compress(*words)
    parent.best.write_bytes(parent.best.read_bytes()[:-1])
    with run.recorded(), pytest.raises(UserError, match="exists"):  # another process is at work there
        run_compress(*words)
    run.note(status="interrupted")
    run_compress(*words)
    assert run.info["status"] == "finished"


def test_configuration_of_a_quantised_run_is_not_trained(parent, tmp_path):
    parent.write_config({**parent.config, "quantized": True})
    done = command("train", "--config-dir", parent.path, "--config-name", "config", cwd=tmp_path)
    assert done.returncode == 2
    assert "imgbench.compress quantised" in done.stderr


@pytest.mark.parametrize(("epochs", "finetuned"), [(1, 2), (20, 4), (-1, 2)])
def test_finetuning_takes_a_fifth_of_the_epochs_and_two_at_least(parent, epochs, finetuned):
    parent.write_config({**parent.config, "trainer": {**parent.config["trainer"], "max_epochs": epochs}})
    assert finetuning(parent, []).trainer.max_epochs == finetuned
    assert finetuning(parent, ["trainer.max_epochs=7"]).trainer.max_epochs == 7


def test_pruning_once_more_goes_on_as_the_last_finetuning_did(parent):
    parent.write_config({**parent.config, "trainer": {**parent.config["trainer"], "max_epochs": 20}})
    lr = parent.config["optimizer"]["lr"]
    assert finetuning(parent, []).optimizer.lr == pytest.approx(lr / 10)
    parent.note(method="prune")
    assert finetuning(parent, []).optimizer.lr == lr
    assert finetuning(parent, []).trainer.max_epochs == 20


def test_unstructured_zeros_survive_finetuning_and_save_nothing_but_when_zipped(made):
    _, run, shown = made("zeros")
    facts = run.info["facts"]
    assert zero_share(load_classifier(run.best)) == facts["zero_share"] == pytest.approx(0.3, abs=0.02)
    assert facts["size_mb"] == pytest.approx(run.info["parent_cost"]["size_mb"], rel=0.05)
    assert facts["gzip_mb"] < 0.9 * facts["parent_gzip_mb"]
    assert "nothing is faster" in shown


def test_run_that_was_not_evaluated_is_compressed_and_evaluated(run_compress, parent, capsys):
    parent.forget_results()
    run_compress("prune", "--amount", 0.25, "--steps", 1, "trainer.max_epochs=1")
    assert parent.concluded
    assert f"{100 * accuracy(parent):.1f} %" in capsys.readouterr().out


def test_quantised_run_is_one_onnx_file_and_its_milliseconds_name_their_runtime(
    larger_run, tmp_path, monkeypatch, capsys
):
    parent = larger_run
    monkeypatch.setattr(sys, "argv", ["compress", str(parent.path), "quantize", "--output", str(tmp_path / "small")])
    compress.main()
    shown = capsys.readouterr().out
    small = Run.open(tmp_path / "small")
    assert small.model == tmp_path / "small" / "model.onnx"
    assert small.config["quantized"] is True
    assert small.info["cost"]["size_mb"] < parent.best.stat().st_size / 1e6
    assert "in PyTorch (* in onnxruntime)" in shown
    assert re.findall(r"^ *(\S+) .*  [\d.]+ \*  ", shown, re.MULTILINE) == [str(small.shown)]


def test_methods_stack_in_the_order_given_also_from_python(parent, tmp_path):
    methods = [Distill(alpha=0.5), Prune(amount=0.25, steps=1)]
    small = compress.compress(parent, methods, ["model=compact", "trainer.max_epochs=1"], tmp_path / "small")
    assert small == Run.open(tmp_path / "small")
    assert small.info["method"] == "prune"
    assert small.info["facts"]["amount"] == 0.25
    first = Run.open(tmp_path / "small" / "intermediate" / "1_distill")
    assert first.info["facts"]["alpha"] == 0.5
    assert first.info["compressed_from"]["path"] == str(parent.path)
    assert small.info["compressed_from"]["path"] == str(first.path)
    assert first.info["cost"]["parameters"] > small.info["cost"]["parameters"]
    assert small.config["model_name"] == "compact"
    with pytest.raises(UserError, match=r"quantize distill: a quantised model .* Name quantize last"):
        compress.compress(parent, [Quantize(), Distill()])


@pytest.mark.parametrize("name", ["compress", "ladder"])
def test_output_that_cannot_be_written_is_an_error_before_anything_is_computed(parent, tmp_path, name):
    (tmp_path / "photo.jpg").touch()
    output = tmp_path / "photo.jpg" / "small"
    words = {"compress": ["prune"], "ladder": []}[name]
    done = command(name, parent.path, *words, "--output", output)
    assert done.returncode == 2
    assert done.stderr.startswith(f"\nError: --output {output}: no directory that can be written to (Not a directory)")
    assert done.stdout == ""


def test_size_is_pruned_to_just_below_its_target(run_compress, parent):
    target = "size<=0.06MB,drop<=100pt"
    run_compress("prune", "--target", target, "trainer.max_epochs=1", "--steps", 1)
    run = Run.open(f"{parent.path}_prune")
    assert 0.03 < run.best.stat().st_size / 1e6 <= 0.06
    assert run.info["facts"]["target"] == target
    assert not (run.path / "steps").exists()


def test_accuracy_bound_alone_is_pruned_to_its_end(run_compress, parent, monkeypatch):
    accuracies = iter([0.9, 0.89, 0.7])
    monkeypatch.setattr("imgbench.compression.prune.validation_accuracy", lambda *_: next(accuracies))
    run_compress("prune", "--target", "drop<=1pt", "trainer.max_epochs=1")
    run = Run.open(f"{parent.path}_prune")
    assert [round(step["drop"], 6) for step in run.info["facts"]["steps"]] == [1, 20]
    assert run.info["facts"]["amount"] == run.info["facts"]["steps"][0]["amount"]


def test_size_that_nothing_reaches_is_refused_before_training(run_compress, parent):
    with pytest.raises(UserError, match=r'"size<=0.001MB" cannot be met: with 95% .*size .* MB, above 0.001 MB'):
        run_compress("prune", "--target", "size<=0.001MB")
    assert Run(Path(f"{parent.path}_prune")).info["status"] == "failed"


def test_target_that_the_parent_meets_is_refused(run_compress):
    with pytest.raises(UserError, match=r'"size<=1MB": .* meets it already'):
        run_compress("prune", "--target", "size<=1MB")


def test_best_step_stays_where_accuracy_falls_below_the_target(run_compress, parent, monkeypatch):
    accuracies = iter([0.9, 0.9, 0.5])
    monkeypatch.setattr("imgbench.compression.prune.validation_accuracy", lambda *_: next(accuracies))
    with pytest.raises(UserError, match=r"cannot be met: drop 40 pt, above 1 pt. The best run so far is .*steps/1"):
        run_compress("prune", "--target", "size<=0.03MB,drop<=1pt", "trainer.max_epochs=1")
    kept = Path(f"{parent.path}_prune") / "steps" / "1"
    assert Run.open(kept).info["status"] == "finished"
    assert imgbench.load(kept).class_names == ["cat", "dog"]


def test_changed_images_are_refused(run_compress, parent, make_folder, tmp_path):
    root = tmp_path / "photos"
    shutil.copytree(parent.config["data"]["root"], root)
    shutil.copy(root / "cat" / "1.png", root / "cat" / "0.png")
    (root / "dog" / "0.png").unlink()
    with pytest.raises(UserError, match=r"(?s)photos are not those of .*split.csv: 1 are missing, 0 are new"):
        run_compress("prune", f"data.root={root}")
    with pytest.raises(UserError, match="in another split"):
        run_compress("distill", "data.split.seed=7")


def test_nothing_is_overwritten(run_compress, parent, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match=r"--output .*full exists"):
        run_compress("prune", "--output", tmp_path / "full")
    Path(f"{parent.path}_prune").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output .*file exists"):
        run_compress("prune", "--output", tmp_path / "file")
    assert compress.directory(parent, ["prune"], None, lambda path: False) == Path(f"{parent.path}_prune_2")


@pytest.mark.parametrize("method", METHODS)
def test_quantised_run_is_refused_by_every_method(run_compress, parent, method):
    shutil.rmtree(parent.path / "checkpoints")
    (parent.path / "model.onnx").touch()
    with pytest.raises(UserError, match=r"is quantised.*Start from the run that it was made from"):
        run_compress(method)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shrink"], "METHOD shrink: expected one or more of reuse, distill, prune, quantize"),
        (["model=cnn"], "METHOD is missing"),
        (["quantize", "prune"], "Name quantize last"),
        (["prune", "--temperature", "2"], "--temperature is an option of distill"),
        (["distill", "--max-drop", "1"], "--max-drop is an option of quantize"),
        (["prune", "--target", "size<2"], "--target 'size<2'"),
        (["prune", "--target", "size<=2MB", "--amount", "0.5"], "leave out --amount or --target"),
        (["prune", "--unstructured", "--steps", "2"], "--unstructured takes --amount"),
        (["prune", "--steps", "0"], "--steps 0"),
        (["prune", "--amount", "1.5"], "--amount 1.5"),
        (["prune", "--amount", "0.001"], "too narrow to lose a channel"),
        (["prune", "model=student"], "pruning keeps the model"),
        (["prune", "head=gap"], "pruning keeps the model"),
        (["prune", "data.image_size=24"], "image_size"),
        (["distill", "model=resnet18"], "model=resnet18"),
        (["distill", "head=big"], "head=big"),
        (["distill", "optimizer.rate=1"], "optimizer.rate"),
        (["distill", "experiment=sneakers_cnn"], "experiment=sneakers_cnn"),
        (["distill", "seed=1,2"], "imgbench.train -m"),
        (["distill", "optimizer.lr=[1"], "not understood"),
        (["distill", "--alpha", "2"], "--alpha 2.0"),
        (["distill", "quantize", "--calibration", "10"], "--calibration 10, but calibration needs at least 32"),
    ],
)
def test_bad_command_line_is_refused(run_compress, words, message):
    with pytest.raises(UserError, match=message):
        run_compress(*words)


def test_run_without_weights_is_refused(run_compress, parent):
    parent.best.unlink()
    with pytest.raises(UserError, match=r"no checkpoints/best.ckpt; its status is 'finished'"):
        run_compress("prune")


def test_words_replace_choices_and_values_of_the_runs_configuration(tiny_run):
    words = ["model=vgg16", "head=gap", "augment=light", "optimizer=sgd", "optimizer.lr=0.5", "data.image_size=64",
             "monitor=val/loss", "mode=min", "callbacks.early_stopping=null",
             "+trainer.limit_train_batches=2"]  # fmt: skip
    config = override(tiny_run, words)
    assert (config.model.pool_size, config.model.hidden, config.model.image_size) == (1, [], 64)
    assert config.model.num_classes == 2
    assert "pool2" not in config.model
    assert config.model_name == "vgg16"
    assert config.augment.flip == 0.5
    assert (config.optimizer.lr, config.optimizer.momentum) == (0.5, 0.9)
    assert (config.callbacks.best.monitor, config.callbacks.best.mode) == ("val/loss", "min")
    assert config.callbacks.early_stopping is None
    assert config.trainer.limit_train_batches == 2
    assert config.data.root == tiny_run.config["data"]["root"]


def test_without_words_the_configuration_stays(tiny_run):
    assert OmegaConf.to_container(override(tiny_run), resolve=True) == tiny_run.config


def test_help_needs_no_torch():
    code = "import sys; sys.argv = ['compress', '--help']\ntry:\n    import imgbench.compress as c; c.main()\n" \
           "except SystemExit:\n    sys.exit('torch' in sys.modules)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "PATH/intermediate/1_distill" in done.stdout
