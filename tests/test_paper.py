"""What a paper is given of a run, by runs that were made of an old one: nothing is trained."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from imgbench.errors import UserError
from imgbench.evaluation.predictions import Predictions
from imgbench.export import export
from imgbench.publish.paper import contents, write_paper
from imgbench.publish.paper_facts import facts_of
from imgbench.publish.paper_text import latex
from imgbench.publish.recorded import Record, cite
from imgbench.report.results import write_results
from imgbench.run import Run

OLD = Path(__file__).parent / "old_run"
NAMES = [r"a_b & 100% #1 $x$ \x {~^}", "猫|狗 “é” <b>"]
WRITTEN = {
    "methods.md",
    "methods.tex",
    "results.md",
    "results.tex",
    "paper.tex",
    "CITATION.bib",
    "figures",
    "checklists",
}


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(shutil.copytree(OLD / "run", tmp_path / "run"))


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> Path:
    """Of a run of an older version, whose classes have names that mean something to LaTeX and Markdown."""
    home = tmp_path_factory.mktemp("paper")
    run = Run(shutil.copytree(OLD / "run", home / "run"))
    renamed(run, NAMES)
    export(run.path, paper=home / "paper")
    return home / "paper"


def change(run: Run, **changes) -> None:
    """Of `config.yaml`: `data__split={...}` updates what lies there."""
    config = run.stored_config
    for name, value in changes.items():
        *parts, last = name.split("__")
        place = config
        for part in parts:
            place = place[part]
        place[last] = {**place[last], **value} if isinstance(value, dict) else value
    (run.path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def renamed(run: Run, names: list[str]) -> None:
    """The same results for classes of other names."""
    found = Predictions.read_csv(run.path / "predictions.csv")
    write_results(run.path, "", {"test": replace(found, class_names=names)}, False)
    (run.path / "validation.csv").unlink()
    (run.path / "split.csv").write_text(
        re.sub(r"(?m)^(cat|dog)(/[^,]*),\1,", lambda line: f"{line[1]}{line[2]},{quoted(names[line[1] == 'dog'])},",
               (run.path / "split.csv").read_text("utf-8")), encoding="utf-8",
    )  # fmt: skip


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def test_a_paper_has_texts_figures_citations_and_checklists_and_no_onnx_file(paper):
    assert {path.name for path in paper.iterdir()} == WRITTEN
    assert not (paper.parent / "run" / "new.onnx").exists()
    sources = (paper / "methods.tex").read_text() + (paper / "results.tex").read_text()
    cited = set(re.findall(r"\\cite\{(.*?)\}", sources))
    assert {"adamw", "wilson", "pytorch"} <= cited
    assert cited == set(re.findall(r"^@\w+\{(\w+),", (paper / "CITATION.bib").read_text(), re.MULTILINE))
    for name in ("curves", "confusion", "reliability", "classes", "unsure"):
        for width in (85, 170):
            assert (paper / "figures" / f"{name}-{width}mm.pdf").stat().st_size
            assert (paper / "figures" / f"{name}-{width}mm.svg").stat().st_size


def test_latex_compiles_with_names_of_any_signs(paper):
    source = (paper / "results.tex").read_text("utf-8")
    assert r"a\_b \& 100\% \#1 \$x\$ \textbackslash{}x \{\textasciitilde{}\textasciicircum{}\}" in source
    assert "猫\\|狗 “é” &lt;b&gt;" in (paper / "results.md").read_text("utf-8")
    engines = [engine for engine in ("pdflatex", "xelatex") if shutil.which(engine)]
    if not engines:
        pytest.skip("no LaTeX to compile it with; on Debian: apt install texlive-latex-recommended texlive-xetex")
    for engine in engines:
        words = [engine, "-interaction=nonstopmode", "-halt-on-error", f"-jobname={engine}", "paper"]
        done = subprocess.run(words, cwd=paper, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
        assert (paper / f"{engine}.pdf").stat().st_size


def test_a_run_of_an_older_version_says_what_it_has_recorded(run):
    texts, _ = contents(run.path)
    assert "48 images of 2 classes: cat (24) and dog (24)" in texts["methods.md"]
    assert "34 to train on, 7 to validate on and 7 to test on" in texts["methods.md"]
    assert "not inspected for copies" in texts["methods.md"]
    accuracy = json.loads((run.path / "metrics.json").read_text())["test/acc"]
    assert f"({accuracy['hits']} of 7; 95 % interval" in texts["results.md"]


def test_signs_of_latex_are_text_and_citations_are_commands():
    assert latex(f"50 % of A_1{cite('key')}.") == r"50~\% of A\_1~\cite{key}."
    assert latex("--config-dir") == "-{}-config-dir"


def test_what_an_author_wrote_is_never_overwritten(run, paper, tmp_path):
    with pytest.raises(UserError, match="holds files already"):
        write_paper(run.path, paper)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        write_paper(run.path, tmp_path / "file")


@pytest.mark.parametrize("lacks", ["metrics.json", "status"])
def test_an_unfinished_run_gives_no_paper(lacks, run, tmp_path):
    if lacks == "status":
        run.note(status="interrupted")
        (run.path / "report.html").unlink()
    else:
        (run.path / lacks).unlink()
    said = "and it has no metrics.json" if lacks == "metrics.json" else "its status is 'interrupted'"
    with pytest.raises(UserError, match=f"not finished.*{said}"):
        write_paper(run.path, tmp_path / "paper")
    assert not (tmp_path / "paper").exists()


def test_a_fact_that_was_not_recorded_is_not_there(run):
    known = facts_of(Record(run))
    assert {"weights", "software", "code", "hardware"} <= known.keys()
    run.write_info({"status": "finished"})
    (run.path / "summary.txt").unlink()
    found = facts_of(Record(run))
    assert not {"software", "code", "hardware", "test_apart", "inspection"} & (found.keys() - {"inspection"})
    assert "parameters" not in found["network"].text
    assert found["seed"].text == "The seed of the training was 42."  # the configuration has it


def test_the_scaled_calibration_error_is_not_taken_for_a_brier_score(run):
    metrics = json.loads((run.path / "metrics.json").read_text())
    metrics |= {name: {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
                for name in ("test/ece", "test/brier", "test/ece_scaled", "val/temperature")}  # fmt: skip
    (run.path / "metrics.json").write_text(json.dumps(metrics))
    last = facts_of(Record(run))["calibration"].text.rpartition("With the logits")[2]
    assert "the calibration error is" in last


def test_where_the_classes_come_from_is_said_of_each_kind_of_data(run):
    assert "the name of a folder" in facts_of(Record(run))["labels"].text
    change(run, data__labels="/a/b/labels.xlsx")
    assert "stands in a table, labels.xlsx" in facts_of(Record(run))["labels"].text
    change(run, data__labels=None, data___target_="imgbench.data.digits.DigitsDataModule")
    assert "is the digit that the set says it is" in facts_of(Record(run))["labels"].text


def test_every_heading_of_the_results_has_a_sentence(run):
    run.note(best_epoch=2)
    lines = (run.path / "metrics.csv").read_text().splitlines()
    values = lines[-1].split(",")
    values[0], values[4] = "2", "0.25"
    (run.path / "metrics.csv").write_text("\n".join([*lines[:2], ",".join(values)]) + "\n")
    text = contents(run.path)[0]["results.md"]
    assert "was 100.0 % after the first epoch and 25.0 % after epoch 2, whose weights were kept." in text
    assert not re.search(r"(?m)^## [^\n]*\n\n!", text)


def test_a_sweep_has_a_paper_but_no_model_and_nothing_is_written_of_both(run, tmp_path):
    sweep = tmp_path / "sweep"
    shutil.copytree(run.path, sweep / "0")
    (sweep / "multirun.yaml").write_text("{}\n")
    with pytest.raises(UserError, match=r"has no config\.yaml"):
        export(sweep, paper=tmp_path / "paper", card=True)
    assert not (tmp_path / "paper").exists()


def test_weights_that_a_run_started_from_are_told_with_their_licence(run):
    assert facts_of(Record(run))["weights"].text == "Training started from random weights."
    weights = {"network": "resnet18.a1_in1k", "source": "hub", "license": "cc-by-nc-4.0"}
    run.note(provenance={"weights": weights})
    text = facts_of(Record(run))["weights"].text
    assert "weights of resnet18.a1_in1k from the Hugging Face Hub" in text
    assert "does not allow commercial use" in text


def test_a_compressed_run_names_the_run_that_it_was_made_of_and_claims_no_training(tmp_path):
    found = facts_of(Record(Run(shutil.copytree(OLD / "int8", tmp_path / "int8"))))
    assert "made from that of another run, “run”, by the method “quantize”" in found["weights"].text
    assert not {"training", "augmentation", "loss", "duration", "reproduction"} & found.keys()


def test_the_accuracy_of_a_run_without_test_images_is_not_met(run):
    numbers = json.loads((run.path / "metrics.json").read_text())
    kept = {name: number for name, number in numbers.items() if not name.startswith("test")}
    (run.path / "metrics.json").write_text(json.dumps(kept))
    assert "No accuracy of test images was recorded." in contents(run.path)[0]["results.md"]


def test_folds_have_a_table_and_the_network_that_is_kept_is_told_apart(run):
    tested = Predictions.read_csv(run.path / "predictions.csv")
    rows = (run.path / "split.csv").read_text("utf-8")
    for fold in range(2):
        own = run.path / "folds" / str(fold)
        own.mkdir(parents=True)
        half = np.arange(len(tested.paths)) % 2 == fold
        (own / "predictions.csv").write_text(tested.subset(half).to_csv())
        (own / "split.csv").write_text(rows)
    assert "temperature" in contents(run.path)[0]["results.md"]
    change(run, data__split={"folds": 2})
    found, pictures = contents(run.path)
    assert "2 folds, drawn at random with the seed 42" in found["methods.md"]
    assert "temperature" not in found["results.md"], "that of the kept network is not that of the folds'"
    assert "it was itself tested on none" in found["methods.md"]
    assert "| fold 2 | 3 | 3 |" in found["results.md"]
    assert "\\label{tab:folds}" in found["results.tex"]
    assert "folds" in [picture.name for picture in pictures]


def test_seeds_have_their_mean_and_spread_and_none_is_the_best(run, tmp_path):
    sweep = tmp_path / "sweep"
    for job, seed in enumerate((2, 1)):
        one = Run(shutil.copytree(run.path, sweep / f"{job}_seed-{seed}"))
        change(one, seed=seed)
        one.note(sweep={"overrides": [f"seed={seed}"], "score": 1.0})
    (sweep / "multirun.yaml").write_text("{}\n")
    found, _ = contents(sweep)
    assert "repeated with the seeds 1 and 2" in found["methods.md"]
    assert "Over the 2 seeds" in found["results.md"]
    last = next(line for line in found["results.md"].splitlines() if line.startswith("| mean ± standard deviation"))
    assert last.count("±") == 3  # of the accuracy and of macro F1
    assert "best" not in found["results.md"]
    change(Run(sweep / "0_seed-2"), optimizer={"lr": 0.5})
    with pytest.raises(UserError, match="differ by more than their seeds"):
        contents(sweep)
