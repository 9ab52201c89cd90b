"""The model card of a run: what Hugging Face and a reader must know of a model that is passed on."""

import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from imgbench.cells import markdown
from imgbench.errors import UserError
from imgbench.evaluation.metrics import describe
from imgbench.files import write_atomically
from imgbench.inference.runtimes import MODELS
from imgbench.inspection.audit import Audit, brief
from imgbench.inspection.findings import Finding
from imgbench.inspection.record import audit_of
from imgbench.models.weights import described_weights
from imgbench.number import Number, read_metrics
from imgbench.report.results import SELECTED_ON_TEST
from imgbench.run import Run
from imgbench.split_file import SPLITS

NAME = "README.md"  # which Hugging Face shows, and reads the lines between `---` of
MARKER = "<!-- The card of a model of imgbench. What you write here stays: it is not written again. -->"
# Ours -> the names that Hugging Face gives to metrics, and what a reader calls them.
METRICS = {
    "test/acc": ("accuracy", "Accuracy"),
    "test/balanced_acc": ("balanced_accuracy", "Balanced accuracy"),
    "test/macro_f1": ("f1", "F1, mean of the classes"),
    "test/auroc": ("roc_auc", "Area under the ROC curve, mean of the classes"),
    "test/ece": ("expected_calibration_error", "Expected calibration error"),
}


LIBRARIES = {".onnx": "onnx", ".xml": "openvino", ".tflite": "tflite"}  # as Hugging Face calls them


def write_card(run: Run, file: Path) -> Path:
    """Writes the card of an exported file beside it; one that is there already stays, with what its author wrote.

    Raises:
        UserError: the run was not evaluated, or what is there is no card, or the card of other results.
    """
    place = file.parent / NAME
    text = card(run, file)
    if not place.exists():
        write_atomically(place, text)
        return place
    found = place.read_text("utf-8", "replace")
    if MARKER not in found:
        raise UserError(
            f"{place} exists and is no model card of imgbench; it stays.\n"
            "Export to another folder: --output DIR/model.onnx"
        )
    if front_matter(found).get("model-index") != front_matter(text).get("model-index"):
        raise UserError(f"{place} is the card of other results than those of {run.shown}. Rename it, or remove it.")
    return place


def front_matter(text: str) -> dict[str, Any]:
    """What a card says to machines.

    Raises:
        UserError: nothing that can be read.
    """
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    try:
        content = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError as error:
        raise UserError(f"{NAME}: the lines between `---` are no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{NAME} does not begin with a line ---, `key: value` lines, and a line ---.")
    return content


def card(run: Run, file: Path) -> str:
    """The text of the card.

    Raises:
        UserError: the run was not evaluated.
    """
    metrics, info, config = _metrics(run), run.info, run.config
    model = MODELS[file.suffix.lower()](file)
    library = LIBRARIES[file.suffix.lower()]
    counts = Counter((row["split"], row["class"]) for row in run.split_rows())
    title = f"{config.get('model_name', 'model')}-{config.get('data_name', 'data')}"
    measured = {name: metrics[name] for name in METRICS if name in metrics and metrics[name].n}
    from huggingface_hub import EvalResult, ModelCardData  # timm brings it; it takes a second

    data = str(config.get("data_name", "data"))
    results = [
        EvalResult(
            task_type="image-classification", task_name="Image Classification",
            dataset_type=data, dataset_name=data, dataset_split="test",
            metric_type=METRICS[name][0], metric_value=number.value, metric_name=METRICS[name][1],
        )
        for name, number in measured.items()
    ]  # fmt: skip
    metadata = ModelCardData(
        license="unknown",
        library_name=library,
        pipeline_tag="image-classification",
        tags=["image-classification", library, "imgbench"],
        model_name=title,
        eval_results=results,
    )
    line, warnings = described_weights(model.provenance)
    weights = (
        f"It started from the weights of {line}." if line else "It was trained from scratch, from no other's weights."
    )
    templates = Environment(
        loader=PackageLoader("imgbench.publish"), autoescape=False, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    templates.filters["md"] = markdown
    return templates.get_template("card.md.jinja").render(
        front_matter=metadata.to_yaml() + "\n",
        marker=MARKER,
        title=markdown(title),
        file=file.name,
        weights_beside=file.with_suffix(".bin").name if file.suffix.lower() == ".xml" else "",
        resizes=model.resizes,
        size=model.preprocessing.image_size,
        numbers=[f"{METRICS[name][1]}: {describe(number)}" for name, number in measured.items()],
        classes=[
            {
                "name": name,
                **{split: counts[split, name] for split in SPLITS},
                "recall": describe(number) if (number := metrics.get(f"test/recall/{name}")) else "unknown",
            }
            for name in model.class_names
        ],
        images=f"{counts.total():,}",
        data=data,
        limits=_limits(run, model.provenance, metrics),
        weights=markdown(" ".join([weights, *(f"Beware: {warning}." for warning in warnings)])),
        command=_command(info),
    )


def _metrics(run: Run) -> dict[str, Number]:
    path = run.path / "metrics.json"
    try:
        metrics = read_metrics(path)
    except FileNotFoundError as error:
        raise UserError(
            f"{run.shown} has no metrics.json, so that its card could say nothing: train to the end."
        ) from error
    if "test/acc" not in metrics or not metrics["test/acc"].n:
        raise UserError(f"{path} has no accuracy of test images, so that a card could say nothing.")
    return metrics


def _limits(run: Run, provenance: dict[str, Any], metrics: dict[str, Number]) -> list[str]:
    lines = [f"{SELECTED_ON_TEST[0].upper()}{SELECTED_ON_TEST[1:]}."] if provenance.get("selected_on_test") else []
    if unrelated := metrics.get("test_unrelated/acc"):
        number = describe(unrelated)
        lines.append(f"Accuracy without images that look like a training image or belong to its group: {number}.")
    found = audit_of(run)
    if found is None:
        return [*lines, "The photographs were not inspected for copies, leaks or shortcuts."]
    lines.append(_without_names(brief(found), found, None))
    for finding in found.findings:
        if finding.severity != "note" or finding.accuracy:
            lines.append(_without_names(finding.message, found, finding))
    return list(dict.fromkeys(line for line in lines if line))


def _without_names(text: str, found: Audit, finding: Finding | None) -> str:
    """A text for strangers: names of files may be those of patients."""
    names = {found.root, *(example for each in found.findings for example in each.examples)}
    private = {part for name in names for part in (name, *re.split(r"[\s,:]+", name), Path(name).name) if len(part) > 4}
    if not any(part in text for part in private):
        return text
    return f"{finding.kind}: {finding.count}" if finding else f"Audit: {found.verdict}."


def _command(info: dict[str, Any]) -> str:
    """The training's command without its paths, which mean nothing elsewhere, and may name a patient or a project."""
    text = str(info.get("command", "python -m imgbench.train"))
    try:
        words = shlex.split(text)
    except ValueError:  # of another's run: a quote that is not closed
        words = text.split()
    kept = [
        word for word in words if not re.search(r"[/\\]|^[+~]*(data\.(root|labels|unlabelled)|data_dir|hydra\.)", word)
    ]
    return shlex.join(kept).replace("`", "")
