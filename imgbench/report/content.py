"""What `report.html` says of a run, asked of its model, its images, its audit and its files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.errors import UserError
from imgbench.evaluation.photographs import picture_data
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.selective import ERRORS, Selection, checked, select
from imgbench.evaluation.subgroups import Subgroups
from imgbench.files import write_atomically
from imgbench.inference.faithfulness import faithfulness
from imgbench.inference.keeping import training_rows
from imgbench.inference.neighbours import features_of, nearest, network_inputs
from imgbench.inference.novelty import has_features
from imgbench.inference.occlusion import occlusion
from imgbench.inference.predictor import Model
from imgbench.inference.torch_model import TorchModel
from imgbench.inspection.audit import Audit, labels_to_look_at
from imgbench.inspection.labels import LabelReview, Suspect
from imgbench.language import language_of_locale
from imgbench.models.activation import class_activation
from imgbench.models.weights import restriction
from imgbench.number import Number, group_codes, mean_of_groups
from imgbench.progress import Step
from imgbench.report.advice import advice, again, command, cue
from imgbench.report.catalogue import Texts
from imgbench.report.charts import read_epochs
from imgbench.report.learning_curve import read_learning_curve
from imgbench.report.page import (
    SUSPECTS,
    ComparedNetwork,
    Neighbour,
    Report,
    ShownRows,
    SmallModel,
    percent,
    report_page,
)
from imgbench.report.results import BEFORE_CORRECTIONS, falls_behind
from imgbench.report.study_file import read_study
from imgbench.run import Run
from imgbench.stored_config import switched_on

NEIGHBOURS = 4  # of each mistake
HIDDEN = 12
JUDGED, FEWEST_JUDGED = 12, 5  # photographs by which it is judged whether maps show what the model looks at


@dataclass(frozen=True)
class EvaluatedRun:
    """What the evaluation of a run has found, and the report tells."""

    run: Run
    data: ImageFolderDataModule
    model: Model
    results: dict[str, Predictions]
    metrics: dict[str, Number]
    selected_on_test: bool
    audit: Audit | None
    reviews: Sequence[LabelReview]  # of the labels of each split
    validation: Predictions | None  # those of `results` that are independent of the training images
    distances: np.ndarray | None  # of these from the training images
    training: np.ndarray | None  # (N, D) features of the `training_rows`; None where the model has none
    subgroups: Sequence[Subgroups] = ()  # by further columns of a table of labels


def write_report(evaluated: EvaluatedRun) -> None:
    """Writes `report.html`."""
    run, data, model = evaluated.run, evaluated.data, evaluated.model
    language = (run.config.get("report") or {}).get("language") or language_of_locale()
    t, test = Texts(language), evaluated.results["test"]
    suspects = labels_to_look_at(evaluated.audit, evaluated.reviews)
    selections: list[Selection] = []
    if evaluated.validation is not None and evaluated.distances is not None and len(evaluated.validation.paths):
        chosen = (select(evaluated.validation, evaluated.distances, error) for error in ERRORS)
        selections = [checked(one, evaluated.results["test"]) for one in chosen]
    curve, gain = read_learning_curve(run, test, len(data.rows("train")), evaluated.metrics["test/acc"])
    study = read_study(run) or {}
    report = Report(
        t("title", model=run.config["model_name"], data=run.config["data_name"]),
        test,
        evaluated.metrics,
        data.class_counts(),
        verdict=_verdict(evaluated, t),
        selected_on_test=evaluated.selected_on_test,
        beside=list(_beside(evaluated.audit, t)),
        notes=list(_notes(evaluated, model, t)),
        advice=advice(run, data, test, evaluated.metrics, evaluated.audit, suspects, selections, t),
        selections=selections,
        epochs=read_epochs(run),
        best_epoch=run.info.get("best_epoch"),
        subgroups=evaluated.subgroups,
        small_models=_small_models(study.get("small")),
        target=study.get("target", ""),
        compared=compared_networks(run),
        learning_curve=curve,
        gain=gain,
        facts=_facts(run, data, model, t),
        commands={
            "again": again(run),
            "evaluate": command("evaluate", run),
            "predict": f"{command('predict', run)} PHOTOGRAPHS",
        },
        model=_text(run, "summary.txt"),
    )
    if switched_on(run.config, "data.thumbnails"):
        _add_photographs(report, data, model, evaluated.training, suspects)
        report.augmented = _samples(run)
    else:
        report.label_suspects = [(suspect, None) for suspect in suspects[:SUSPECTS]]
    report.labels = len(suspects)
    if not suspects and not any(review.conclusive for review in evaluated.reviews):
        report.label_suspects = None
    with Step("Writing the report"):
        # A name that no encoding knows is shown as far as it goes.
        write_atomically(run.path / "report.html", report_page(report, language), errors="replace")


def _verdict(evaluated: EvaluatedRun, t: Texts) -> tuple[str, str]:
    found = evaluated.audit
    if found is None:
        return "none", ""
    if found.verdict == "leaks" and "test" in found.leaked and found.proven is None:  # by likeness too
        return found.verdict, t("found_leak_test", message=t("verdict_suspect"), n=found.leaked["test"])
    if found.verdict == "leaks" and "test" in found.leaked:
        return found.verdict, t("verdict_leaks", related=found.leaked["test"], n=found.splits["test"])
    if found.verdict == "leaks":
        return found.verdict, t("found_leak_val", message=t("verdict_suspect"), n=found.leaked.get("val", 0))
    return found.verdict, ""


def _beside(found: Audit | None, t: Texts) -> Iterator[str]:
    for name, number in list(found.shortcuts.items())[:1] if found else ():
        yield t("beside", cue=cue(name, t), value=percent(number.value))


def _notes(evaluated: EvaluatedRun, model: Model, t: Texts) -> Iterator[str]:
    if evaluated.selected_on_test:
        yield t("selected_on_test")
    if folds := evaluated.run.folds:
        yield t("cross_validated", n=len(evaluated.results["test"].paths), folds=folds)
    if falls := falls_behind(evaluated.metrics, evaluated.run.folds):
        val, test = evaluated.metrics["val/acc"], evaluated.metrics["test/acc"]
        points = {name: f"{100 * getattr(falls, name):.1f}" for name in ("value", "low", "high")}
        yield t("falls_behind", **points, val=percent(val.value), n_val=val.n, n_test=test.n)
    if before := evaluated.metrics.get(BEFORE_CORRECTIONS):
        yield t("before_corrections", value=percent(before.value))
    found = evaluated.audit
    if found and found.leaking.get("test") and "test_unrelated/acc" not in evaluated.metrics:
        yield t("all_related")
    weights = model.provenance.get("weights")
    if isinstance(weights, dict):
        license = str(weights.get("license", "unknown"))
        if limits := restriction(license):
            yield t(f"weights_{limits}", license=license)


def _facts(run: Run, data: ImageFolderDataModule, model: Model, t: Texts) -> dict[str, str]:
    info, config = run.info, run.config
    epochs = read_epochs(run)
    seconds = sum(float(row.get("epoch_seconds") or 0) for row in epochs)
    counts = {split: len(data.rows(split)) for split in ("train", "val", "test")}
    counts["test"] = counts["test"] or sum(counts.values())  # by cross-validation, all
    weights = model.provenance.get("weights")
    file = run.model
    versions = info.get("versions") or {}
    facts = {
        "model": config.get("model_name"),
        "weights": t("weights", **weights) if isinstance(weights, dict) else None,
        "data": t("data", **counts, classes=len(data.class_names)),
        "folder": str(data.table.root),
        "size": t("pixels", size=data.preprocessing.image_size),
        "epochs": t("epochs", done=len(epochs), best=info.get("best_epoch", "?")) if len(epochs) > 1 else None,
        "time": _duration(seconds, t) if seconds else None,
        "started": info.get("started"),
        "device": " ".join(str(info[name]) for name in ("device", "precision") if info.get(name)),
        "file": f"{file.name}, {file.stat().st_size / 1e6:.2f} MB" if file else None,
        "seed": config.get("seed"),
        "versions": ", ".join(
            f"{name} {versions[name]}" for name in ("python", "torch", "lightning") if name in versions
        ),
        "commit": info.get("git_commit"),
        "command": info.get("command"),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _duration(seconds: float, t: Texts) -> str:
    if seconds < 120:
        return t("seconds", n=seconds)
    return t("minutes", n=seconds / 60) if seconds < 7200 else t("hours", n=seconds / 3600)


def compared_networks(run: Run) -> list[ComparedNetwork]:
    """The networks that were compared, the run's among them; empty where it was named.

    Raises:
        UserError: what `run.json` says of them is damaged.
    """
    try:
        return [ComparedNetwork.from_dict(one) for one in run.info.get("compared", ())]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{run.path / 'run.json'} is damaged in `compared`: {error!r}. Restore it from a copy."
        ) from error


def _small_models(small: dict[str, Any] | None) -> list[SmallModel]:
    if small is None:
        return []
    fields = ("name", "size_mb", "latency_ms", "val_drop")
    return [
        SmallModel(
            **{field: row[field] for field in fields},
            accuracy=Number.from_dict(row["accuracy"]),
            difference=Number.from_dict(row["difference"]),
            taken=row["name"] == small["name"],
        )
        for row in small["rows"]
    ]


def _text(run: Run, name: str) -> str | None:
    path = run.path / name
    return path.read_text("utf-8") if path.is_file() else None


def _samples(run: Run) -> str | None:
    """The picture of training images, as far as the page needs it sharp."""
    path = run.path / "samples.png"
    if not path.is_file():
        return None
    with Image.open(path) as picture:
        return picture_data(picture.convert("RGB"), 900)


def _add_photographs(
    report: Report,
    data: ImageFolderDataModule,
    model: Model,
    training: np.ndarray | None,
    suspects: Sequence[Suspect],
) -> None:
    row_of = {path: row for row, path in enumerate(data.table.paths)}
    shown, rows = ShownRows.of(report.predictions), np.array([row_of[path] for path in report.predictions.paths])
    images = images_of_rows(data, rows[shown.all])
    report.images = dict(zip(shown.all.tolist(), images, strict=True))
    chosen = suspects[:SUSPECTS]
    pictures = images_of_rows(data, np.array([row_of[suspect.path] for suspect in chosen], np.int64))
    report.label_suspects = list(zip(chosen, pictures, strict=True))
    explained = np.array(list(dict.fromkeys([*shown.mistakes, *shown.least_sure, *shown.all])), np.int64)
    heat = looked_at(model, data, rows[explained], report.predictions.predicted[explained])
    report.heat = dict(zip(explained.tolist(), heat, strict=False))  # of the first, where there are fewer
    judged = explained[: min(len(heat), JUDGED)]
    if len(np.unique(codes := group_codes([report.predictions.groups[row] for row in judged]))) >= FEWEST_JUDGED:
        inputs = torch.from_numpy(np.stack([report.images[row] for row in judged.tolist()])).permute(0, 3, 1, 2)
        gains = faithfulness(model, inputs, heat[: len(judged)], report.predictions.predicted[judged])
        report.heat_gain = mean_of_groups(gains, codes)
        if report.heat_gain.low <= 0:
            report.heat = {}
    if training is not None and has_features(model) and len(shown.mistakes):
        near, similarity = nearest(features_of(model, data, rows[shown.mistakes]), training, NEIGHBOURS + 1)
        known = training_rows(data)
        report.sampled = len(known) if len(known) < len(data.rows("train")) else None
        wanted = np.unique(near)
        pixels = dict(zip(wanted.tolist(), images_of_rows(data, known[wanted]), strict=True))
        labels = data.table.labels[known]
        report.neighbours = {
            int(row): [
                Neighbour(data.class_names[labels[i]], float(alike), pixels[int(i)])
                for i, alike in zip(near[position], similarity[position], strict=True)
                if known[i] != rows[row]  # of a cross-validation, what was tested was learnt from afterwards
            ][:NEIGHBOURS]
            for position, row in enumerate(shown.mistakes)
        }


def looked_at(model: Model, data: ImageFolderDataModule, rows: np.ndarray, classes: np.ndarray) -> list[np.ndarray]:
    """For rows of the table, how much each place (h, w) speaks for the class: by gradients, or else by hiding parts.

    Hiding takes fifty answers an image, and is done for the first `HIDDEN` only.
    """
    found: list[np.ndarray] = []
    with Step("Explaining predictions", len(rows)) as progress:
        for images in network_inputs(data, rows):
            maps = heat_maps(model, images, classes[len(found) : len(found) + len(images)], HIDDEN - len(found))
            found += maps
            progress.advance(len(maps))
            if len(maps) < len(images):
                break
    return found


def heat_maps(model: Model, images: torch.Tensor, classes: np.ndarray, most_hidden: int = HIDDEN) -> list[np.ndarray]:
    """As `looked_at`, of uint8 images (N, 3, image_size, image_size); parts are hidden of the first `most_hidden`."""
    if isinstance(model, TorchModel) and model.has_features:
        seen = model.classifier.normalized(images.to(model.device))
        maps = class_activation(model.classifier.model, seen, torch.from_numpy(classes).to(model.device))
        if maps is not None:
            return list(maps.float().cpu().numpy())
    room = max(most_hidden, 0)
    return list(occlusion(model, images[:room], classes[:room])) if room else []


def images_of_rows(data: ImageFolderDataModule, rows: np.ndarray) -> list[np.ndarray]:
    """(H, W, 3) uint8 of rows of the table, as the network gets them."""
    return [image for batch in network_inputs(data, rows) for image in batch.permute(0, 2, 3, 1).numpy()]
