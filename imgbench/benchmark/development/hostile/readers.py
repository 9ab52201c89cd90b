"""The kinds of files that may be foreign, and what commands do with each."""

import functools
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgbench.benchmark.development.hostile.packed import (
    mutated_answers,
    mutated_arrays,
    mutated_checkpoint,
    mutated_excel,
    mutated_onnx,
    mutated_parquet,
    mutated_shard,
    mutated_weights,
)
from imgbench.benchmark.development.hostile.texts import (
    mutated_card,
    mutated_json,
    mutated_lines,
    mutated_table,
    mutated_yaml,
)
from imgbench.benchmark.development.hostile.values import Bait

Mutation = Callable[[Any, Bait, random.Random], bytes]


@dataclass(frozen=True)
class Kind:
    """Files of a kind: where they lie below the home, how one is mutated, and the readers that commands give it to.

    One of the readers, drawn by chance, gets a mutated file.
    """

    place: str
    mutate: Mutation
    readers: tuple[Callable[[Path], object], ...]
    binary: bool = False
    made_of: str = ""  # of a table that is no text: the same as CSV


def _read_run(home: Path) -> object:
    from imgbench.inspection.audit import brief, summary
    from imgbench.inspection.record import audit_of, related_to_training
    from imgbench.report.content import compared_networks
    from imgbench.run import Run

    run = Run.open(home / "run")
    found = audit_of(run)
    if found:
        brief(found)
        summary(found)
    return [run.config, run.info, run.status, run.epochs, run.folds, run.holds("none"), compared_networks(run),
            related_to_training(run, found)]  # fmt: skip


def _resume(home: Path) -> object:
    from imgbench.experiment.compose import compose, files_of
    from imgbench.run import Run
    from imgbench.sweep.resume import resumed, resumed_study

    place = ["--resume", str(home / "run")]
    words = [resumed([*place, "trainer.max_epochs=3"])]
    files_of(Run.open(home / "run"), [])
    if (home / "run" / "study.json").is_file():
        words.append(resumed_study([*place, "budget=2"]))
    return [words, [_plain(compose([one for one in line or () if one.startswith(("target", "budget"))], "study"))
                    for line in words]]  # fmt: skip


def _plain(config: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=True)


def _train(home: Path) -> object:
    """Goes on with the run."""
    return _begun(home, "run", ["trainer.max_epochs=3"])


def _begun(home: Path, base: str, words: list[str], anew: bool = False) -> object:
    """All that comes before the first step."""
    from imgbench.experiment.build import build_trainer, check_resume
    from imgbench.experiment.compose import override
    from imgbench.experiment.train import begin, resolve
    from imgbench.run import Run

    run = Run.open(home / base)
    config = override(run, [*words, "trainer.accelerator=cpu"], anew=anew)
    experiment = resolve(config)
    shutil.rmtree(home / "new", ignore_errors=True)
    (home / "new").mkdir()
    classifier = begin(Run(home / "new"), experiment)
    build_trainer(experiment.config, experiment.settings, home / "new")
    if not anew:
        check_resume(str(run.last), classifier, 3)
    return None


def _compare(home: Path) -> object:
    from imgbench.compare import compare

    return len(repr(compare([home / "run", home / "other"], any_images=True)))


def _predict(home: Path) -> object:
    """Loads the model and names a photograph, with all that it says of its answers."""
    from imgbench.inference.predictor import Predictor
    from imgbench.publish.answers import Classifier

    for place in (home / "run", home / "run" / "model.onnx"):
        found = Classifier(place)
        found.answers([next((home / "photos").glob("*/0.png"))])
    return Predictor.load(home / "run").provenance


def _evaluate(home: Path) -> object:
    from imgbench.evaluate import evaluate

    return len(evaluate(home / "run", "val", sensitivity=0.5).table())


def _report(home: Path) -> object:
    from imgbench.experiment.build import build_data_of
    from imgbench.report.conclude import conclude
    from imgbench.run import Run

    run = Run.open(home / "run")
    conclude(run, build_data_of(run), announce=False)
    return None


def _card(home: Path) -> object:
    from imgbench.publish.card import NAME, write_card
    from imgbench.run import Run

    found = write_card(Run.open(home / "run"), home / "run" / "model.onnx").read_text("utf-8", "replace")
    if found != (home / "other" / NAME).read_text("utf-8"):  # else of a spoilt card
        return None
    (home / "run" / NAME).unlink()
    return write_card(Run.open(home / "run"), home / "run" / "model.onnx").read_text("utf-8")


def _paper(home: Path) -> object:
    from imgbench.publish.paper import contents

    return contents(home / "run")[0]


def _export(home: Path) -> object:
    from imgbench.inference.parity import export_onnx

    return repr(export_onnx(home / "run", home / "new.onnx", 2))


def _drift(home: Path) -> object:
    from imgbench.drift import drift

    (home / "drift.csv").unlink(missing_ok=True)
    (home / "drift.csv.source.json").unlink(missing_ok=True)
    return drift(home / "run", [home / "photos"], home / "drift.csv")


def _go_on(ending: str) -> Callable[[Path], object]:
    """Goes on with a table of answers."""

    def read(home: Path) -> object:
        from imgbench.predict import predict

        place = home / f"answers.{ending}"
        try:
            return predict(home / "run", [next((home / "photos").rglob("*.png"))], output=place)
        finally:  # what it has made of it
            shutil.copy2(home / "answers.csv.whole.json", home / "answers.csv.source.json")
            (home / "answers.parquet.part").unlink(missing_ok=True)

    return read


def _start_from(home: Path) -> object:
    """Trains another run from the weights of this one."""
    return _begun(home, "other", [f"init_from={home / 'run'}"], anew=True)


def _weights(home: Path) -> object:
    from imgbench.models.weights import read_weights

    return len(read_weights(home / "weights.pth"))


def _swept(home: Path) -> object:
    from imgbench.sweep.table import _runs_of

    return _runs_of(home)


def _review(home: Path) -> object:
    from imgbench.publish.review_images import ReviewedImages

    return len(ReviewedImages(home / "run").files)


@functools.cache
def _composed(choice: str) -> Any:
    from imgbench.experiment.compose import compose

    return compose([f"data={choice}", "data.audit=false"])  # which takes longer than all that follows


def _images(choice: str, **options: str) -> int:
    from imgbench.experiment.build import build_data

    config = _composed(choice).copy()
    config.data.update(options)
    return len(build_data(config).table.paths)


def _images_of_folder(home: Path) -> object:
    return _images("folder", root=str(home / "photos"))


def _labelled(ending: str) -> Callable[[Path], object]:
    def read(home: Path) -> object:
        return _images("folder", root=str(home / "photos"), labels=str(home / f"labels.{ending}"))

    return read


def _shard(home: Path) -> Path:
    return next((home / "shards").glob("*.tar"))


def _shards(home: Path) -> object:
    return _images("shards", root=str(_shard(home)))


def _index_anew(home: Path) -> object:
    from imgbench.data.shard_index import index_shards

    return str(index_shards(_shard(home)))


def _sweep(home: Path) -> object:
    from imgbench.sweep.resume import resumed

    return resumed(["--resume", str(home / "sweep")])


ALL_OF_A_RUN = (_read_run, _resume, _train, _compare, _predict, _evaluate, _export, _paper, _card, _drift, _review)

KINDS: dict[str, Kind] = {
    "config.yaml": Kind("run/config.yaml", mutated_yaml, (*ALL_OF_A_RUN, _report, _start_from)),
    "run.json": Kind("run/run.json", mutated_json, (_read_run, _resume, _compare, _card, _paper, _swept, _report)),
    "split.csv": Kind("run/split.csv", mutated_table, (*ALL_OF_A_RUN, _report)),
    "audit.json": Kind("run/audit.json", mutated_json, (_read_run, _card, _paper, _report)),
    "study.json": Kind("run/study.json", mutated_json, (_resume, _paper, _report)),
    "metrics.json": Kind("run/metrics.json", mutated_json, (_evaluate, _card, _paper, _compare)),
    "metrics.csv": Kind("run/metrics.csv", mutated_table, (_read_run, _resume, _paper, _report)),
    "learning_curve.json": Kind("run/learning_curve.json", mutated_json, (_paper, _report)),
    "predictions.csv": Kind("run/predictions.csv", mutated_table, (_compare, _predict, _paper)),
    "validation.csv": Kind("run/validation.csv", mutated_table, (_predict, _evaluate, _paper, _drift)),
    "features.npz": Kind("run/features.npz", mutated_arrays, (_predict, _drift), binary=True),
    "README.md": Kind("run/README.md", mutated_card, (_card,)),
    "multirun.yaml": Kind("sweep/multirun.yaml", mutated_yaml, (_sweep,)),
    "corrections.csv": Kind("photos/corrections.csv", mutated_table, (_review, _compare, _images_of_folder)),
    "labels.csv": Kind("labels.csv", mutated_table, (_labelled("csv"),)),
    "labels.xlsx": Kind("labels.xlsx", mutated_excel, (_labelled("xlsx"),), made_of="labels.csv"),
    "labels.jsonl": Kind("labels.jsonl", mutated_lines, (_labelled("jsonl"),), made_of="labels.csv"),
    "labels.parquet": Kind("labels.parquet", mutated_parquet, (_labelled("parquet"),), made_of="labels.csv"),
    "shard index": Kind("shards/*.csv", mutated_table, (_shards,)),
    "shard": Kind("shards/*.tar", mutated_shard, (_shards, _index_anew), binary=True),
    "answers.csv": Kind("answers.csv", mutated_table, (_go_on("csv"),)),
    "answers' description": Kind("answers.csv.source.json", mutated_json, (_go_on("csv"),)),
    "answers.parquet": Kind("answers.parquet", mutated_answers, (_go_on("parquet"),), binary=True),
    "ONNX file": Kind("run/model.onnx", mutated_onnx, (_predict, _card), binary=True),
    "weights": Kind("weights.pth", mutated_weights, (_weights,), binary=True),
    "checkpoint": Kind("run/checkpoints/best.ckpt", mutated_checkpoint,
                       (_predict, _evaluate, _export, _report, _start_from), binary=True),
    "last checkpoint": Kind("run/checkpoints/last.ckpt", mutated_checkpoint, (_train,), binary=True),
}  # fmt: skip
