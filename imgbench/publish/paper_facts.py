"""What a run has recorded, as sentences that a paper and a checklist can take over, each with the file it stands in.

Nothing is guessed: of what was not recorded there is no fact.
"""

import csv
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from imgbench.cells import unguarded
from imgbench.data.layout import split_of
from imgbench.errors import UserError
from imgbench.evaluation.metrics import confusion_matrix, describe
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.selective import ERRORS, Selection, checked, select
from imgbench.inference.novelty import FEATURES, novelty_limit_of, read_arrays
from imgbench.inspection.audit import PROVEN, RELATED, Audit
from imgbench.inspection.record import FILE as AUDIT
from imgbench.inspection.record import audit_of
from imgbench.language import counted
from imgbench.models.weights import restriction
from imgbench.number import CROSS_VALIDATED, Number, read_metrics
from imgbench.report.charts import read_epochs
from imgbench.report.content import compared_networks
from imgbench.report.learning_curve import read_learning_curve
from imgbench.report.page import ComparedNetwork
from imgbench.report.results import BEFORE_CORRECTIONS, SELECTED_ON_TEST
from imgbench.report.study_file import read_study
from imgbench.run import ACCEPTANCE_FILES, FOLDS, LEARNING_CURVE, PREDICTIONS, Run
from imgbench.split_file import SPLITS
from imgbench.trust import damage_named

CONFIG, INFO, METRICS, SPLIT, EPOCHS = "config.yaml", "run.json", "metrics.json", "split.csv", "metrics.csv"
NAMED = 20  # classes; of more, a sentence gives the smallest and the largest number of images
# Between these stands the key of what is cited; no text from outside has them, see `plain`.
CITE, ENDCITE = "\x02", "\x03"

# The names of `metrics.json`, in the order in which a paper gives them.
MEASURED = {
    "acc": "accuracy",
    "balanced_acc": "balanced accuracy (mean recall of the classes)",
    "macro_f1": "macro F1 (mean F1 of the classes)",
    "top5_acc": "top-5 accuracy",
    "auroc": "AUROC (each class against the rest, mean of the classes)",
    "ap": "average precision (each class against the rest, mean of the classes)",
    "ece": "expected calibration error",
    "brier": "Brier score",
}
OPTIMIZERS = {"AdamW": ("AdamW", "adamw"), "Adam": ("Adam", "adam"), "SGD": ("stochastic gradient descent", None)}
# Last part of `_target_` -> how the learning rate goes, and the key of what is cited.
SCHEDULES: dict[str, tuple[str, str | None]] = {
    "one_cycle": ("a one-cycle schedule", "onecycle"),
    "cosine": ("a cosine schedule", "sgdr"),
    "warmup_cosine": ("a cosine schedule after a linear warm-up", "sgdr"),
    "step": ("a step schedule", None),
    "exponential": ("exponential decay", None),
    "plateau": ("reductions on plateaus", None),
    "constant": ("a constant learning rate", None),
}
# Names of networks of timm and torchvision -> the key of the paper that they are of.
ARCHITECTURES = {
    r"(tf_)?efficientnet_(b\d|lite\d|es|em|el|l2)": "efficientnet",
    r"(wide_)?resnet\d": "resnet",
    r"mobilenet_?v2": "mobilenetv2",
    r"mobilenet_?v3": "mobilenetv3",
    r"vgg\d": "vgg",
    r"vit_(tiny|small|base|large|huge)_": "vit",
    r"convnext_": "convnext",
    r"densenet\d": "densenet",
    r"swin_(t\b|s\b|b\b|tiny|small|base|large)": "swin",
}
OWN = {  # networks that imgbench builds itself
    "CompactCNN": ("a plain chain of 3 x 3 convolutions with batch normalisation and global average pooling", None),
    "CompactResNet": ("a residual network", "resnet"),
    "CNN": ("three convolutions with pooling and a dense head", None),
    "VGG": ("VGG", "vgg"),
    "Student": ("two convolutions with pooling and a dense head", None),
}
SOFTWARE = {
    "python": "Python", "torch": "PyTorch", "lightning": "Lightning", "torchmetrics": "TorchMetrics",
    "hydra-core": "Hydra", "numpy": "NumPy", "pillow": "Pillow",
}  # fmt: skip
POLICIES = ("randaugment", "trivialaugment")  # of augmentation, which are cited under these keys
ITSELF = "teacher"  # how a study calls the network that smaller ones are made of
SOLVED = "imgbench.models.backbone.pooled_features"


def cite(key: str | None) -> str:
    """The mark of a citation, behind what cites it."""
    return f"{CITE}{key}{ENDCITE}" if key else ""


def plain(text: object) -> str:
    """A text from outside on one line, without signs that mean something here or cannot be printed."""
    shown = str(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in shown).split())


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def listed(parts: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f" {last} ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


@dataclass(frozen=True)
class Fact:
    """Whole sentences, and the file of the run in which they are recorded.

    Args:
        met: whether what is recorded is as it should be; where it is not, the sentences say why.
    """

    text: str
    file: str
    met: bool = True


class Record:
    """What lies in a finished run's directory, each file read when it is first asked for.

    Raises:
        UserError: the run is not finished, or was not evaluated; and, where a file is read, it is damaged.
    """

    def __init__(self, run: Run) -> None:
        missing = [name for name in (METRICS, PREDICTIONS, SPLIT, INFO) if not (run.path / name).is_file()]
        if run.status != "finished" or missing:
            lacks = f" and has no {' and no '.join(missing)}" if missing else ""
            raise UserError(
                f"{run.shown} is not finished: its status is {run.status!r}{lacks}. A paper is of a run "
                f"that was trained and evaluated: python -m imgbench.train --resume {run.shown}"
            )
        self.run, self.info, self.config = run, run.info, run.config

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        return self.run.split_rows()

    @cached_property
    def fold_rows(self) -> list[list[dict[str, str]]]:
        """Of each fold of a cross-validation, the rows of its own table."""
        return [Run(self.run.path / FOLDS / str(fold)).split_rows() for fold in range(self.run.folds or 0)]

    @cached_property
    def metrics(self) -> dict[str, Number]:
        return read_metrics(self.run.path / METRICS)

    @cached_property
    def predictions(self) -> Predictions:
        return self._predictions(self.run.path / PREDICTIONS)

    @cached_property
    def fold_predictions(self) -> list[Predictions]:
        return [self._predictions(self.run.path / FOLDS / str(i) / PREDICTIONS) for i in range(self.run.folds or 0)]

    @cached_property
    def audit(self) -> Audit | None:
        return audit_of(self.run)

    @cached_property
    def epochs(self) -> list[dict[str, str]]:
        return read_epochs(self.run)

    @cached_property
    def compared(self) -> list[ComparedNetwork]:
        return compared_networks(self.run)

    @cached_property
    def classes(self) -> list[str]:
        return self.predictions.class_names

    @property
    def data(self) -> dict[str, Any]:
        return self.config["data"]

    @property
    def plan(self) -> dict[str, Any]:
        return self.data.get("split") or {}

    @property
    def model(self) -> dict[str, Any]:
        return self.config.get("model") or {}

    @property
    def solved(self) -> bool:
        """Whether nothing but a linear last layer was learnt."""
        return self.model.get("_target_") == SOLVED and bool(self.model.get("freeze_backbone", True))

    @property
    def trained(self) -> bool:
        """Whether weights were learnt in this run: int8 is made of those of another."""
        return self.info.get("method") != "quantize"

    @property
    def selected_on_test(self) -> bool:
        recorded = self.info.get("selected_on_test", (self.info.get("provenance") or {}).get("selected_on_test"))
        return bool(recorded) or self.plan.get("val") == "test"

    @property
    def tested(self) -> Number | None:
        """The accuracy on test images; None where there are none."""
        accuracy = self.metrics.get("test/acc")
        return accuracy if accuracy is not None and accuracy.n else None

    @cached_property
    def counts(self) -> Counter[str]:
        """Images of each split; of a cross-validation, those of the network that is kept."""
        return Counter(row["split"] for row in self.rows)

    @cached_property
    def selections(self) -> list[Selection]:
        """What can be promised at which error; empty where the validation images were not kept."""
        file = self.run.path / ACCEPTANCE_FILES[0]
        if self.selected_on_test or not file.is_file() or self.tested is None:
            return []
        validation, features = self._predictions(file), self.run.path / FEATURES
        distances = np.zeros(len(validation.paths))
        if features.is_file():
            distances = read_arrays(features).get("distances", distances)
        if len(distances) != len(validation.paths) or not len(distances):
            return []
        return [checked(select(validation, distances, error), self.predictions) for error in ERRORS]

    def _predictions(self, file: Path) -> Predictions:
        with damage_named(file):
            return Predictions.read_csv(file)


def facts_of(record: Record) -> dict[str, Fact]:
    """Every fact that the run has recorded, by its name."""
    found = {name: make(record) for name, make in MAKERS.items()}
    return {name: fact for name, fact in found.items() if fact is not None}


# --- the images


def images(record: Record) -> Fact:
    names = Counter(row["class"] for row in record.rows)
    name = plain(record.config.get("data_name", "unnamed"))
    start = f"The data set “{name}” has {counted(len(record.rows))} of {counted(len(names), 'class', 'classes')}"
    if len(names) <= NAMED:
        parts = [f"{plain(label)} ({names[label]:,})" for label in record.classes if label in names]
        return Fact(f"{start}: {listed(parts)}.", SPLIT)
    return Fact(f"{start}, with {min(names.values()):,} to {max(names.values()):,} images each.", SPLIT)


def source(record: Record) -> Fact | None:
    if str(record.data.get("_target_", "")).endswith(".DigitsDataModule"):
        text = (
            "They are the handwritten digits that scikit-learn carries, the test part of the set of the UCI repository"
        )
        return Fact(f"{text}{cite('digits')}.", CONFIG)
    return None


def labels(record: Record) -> Fact | None:
    table = record.data.get("labels")
    if table:
        column = (record.data.get("columns") or {}).get("class")
        of_column = f", in its column “{plain(column)}”" if column not in (None, "auto") else ""
        return Fact(f"The class of each image stands in a table, {plain(Path(str(table)).name)}{of_column}.", CONFIG)
    others = sum(row["class"] not in Path(row["path"]).parts[:-1] for row in record.rows)
    if not others:
        return Fact("The class of each image is the name of a folder that it lies in.", SPLIT)
    if record.info.get("corrections") and others < len(record.rows):
        rest = f"{counted(others)} whose class people have decided otherwise"
        return Fact(f"The class of an image is the name of a folder that it lies in, but for {rest}.", SPLIT)
    return None


def left_out(record: Record) -> Fact | None:
    file = record.run.path / "left_out.csv"
    if not file.is_file():
        return None
    with damage_named(file), file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
        reasons = Counter(unguarded(row["reason"]) for row in csv.DictReader(lines))
    parts = [f"{plain(reason)} ({number:,})" for reason, number in reasons.most_common()]
    files = counted(reasons.total(), "entry", "entries")
    were = "was" if reasons.total() == 1 else "were"
    return Fact(f"{files} of the data's folder {were} left out; the reasons: {listed(parts)}.", "left_out.csv")


def corrections(record: Record) -> Fact | None:
    found = record.info.get("corrections")
    if not found or not found.get("sentence"):
        return None
    decided = plain(found["sentence"]).removeprefix("Corrections: ").rstrip(".")
    text = f"People had looked at images before the training and decided of them: {decided}."
    if changed := len(found.get("test_classes_before") or {}):
        text += f" {counted(changed, 'test image')} had another class before."
    if before := record.metrics.get(BEFORE_CORRECTIONS):
        text += f" With the labels of before, the accuracy is {describe(before)}."
    return Fact(text, INFO)


def groups(record: Record) -> Fact:
    sizes = Counter(row["group"] or row["path"] for row in record.rows)
    rule, column = record.plan.get("group"), (record.data.get("columns") or {}).get("group")
    how = ""
    if column not in (None, "auto"):
        how = f"Which images belong together was read from the column “{plain(column)}”. "
    elif rule == "auto":
        how = "Which images belong together was looked for automatically (data.split.group=auto). "
    elif rule:
        how = f"Images whose file names match alike belong together, by the expression {plain(rule)}. "
    if len(sizes) == len(record.rows):
        return Fact(f"{how}No two images are recorded as belonging together.", SPLIT)
    largest = max(sizes.values())
    text = f"The {len(record.rows):,} images form {counted(len(sizes), 'independent group')} of 1 to {largest:,} images"
    if min(sizes.values()) > 1:
        text = text.replace(" of 1 to", f" of {min(sizes.values()):,} to")
    return Fact(f"{how}{text}.", SPLIT)


# --- the division


def division(record: Record) -> Fact:
    if record.run.folds:
        return _folds(record)
    counts, plan = record.counts, record.plan
    parts = [f"{counts[split]:,} {use}" for split, use in zip(SPLITS, ("to train on", "to validate on", "to test on"),
             strict=True) if counts[split]]  # fmt: skip
    text = f"The images were divided into {listed(parts)}."
    if counts["val"] and record.selected_on_test:
        return Fact(text, SPLIT)
    columns, stated = record.data.get("columns") or {}, set()
    for row in record.rows:
        if split_of(row["path"].split("/")[0]) == row["split"]:
            stated.add(row["split"])
    if columns.get("split") not in (None, "auto"):
        text += f" The column “{plain(columns['split'])}” of the table of labels says so."
    elif record.data.get("labels") and columns.get("split") == "auto":
        return Fact(text, SPLIT)  # the table may have said so: it is not recorded
    elif stated:
        names = {"train": "training", "val": "validation", "test": "test"}
        parts = listed([names[split] for split in SPLITS if split in stated])
        text += f" The folders of the data say which images are for {parts}."
        drawn = [names[split] for split in ("val", "test") if counts[split] and split not in stated]
        if drawn:
            text += f" The {listed(drawn)} images were drawn{_drawn(record)}."
    else:
        if plan.get("folds"):
            text += f" The test images are fold {int(plan['fold']) + 1} of {plan['folds']}."
        text += f" The division was drawn{_drawn(record)}."
    return Fact(text, SPLIT)


def _drawn(record: Record) -> str:
    plan = record.plan
    seed = f" with the seed {plan['seed']}" if "seed" in plan else ""
    return f" at random{seed}{', stratified by class' if plan.get('stratify') else ''}"


def _folds(record: Record) -> Fact:
    tested = [sum(row["split"] == "test" for row in rows) for rows in record.fold_rows]
    trained = [sum(row["split"] == "train" for row in rows) for rows in record.fold_rows]
    validated = [sum(row["split"] == "val" for row in rows) for rows in record.fold_rows]
    parts = f"{_span(trained)} images to train on, {_span(validated)} to validate on and {_span(tested)} to test on"
    kept = record.counts
    return Fact(
        f"The images were divided into {record.run.folds} folds, drawn{_drawn(record)}. Each image was tested once, by "
        f"the network of its fold, which had {parts}. The network that is kept was trained afterwards, on "
        f"{kept['train']:,} images with {kept['val']:,} to validate on; it was itself tested on none.",
        f"{SPLIT}, {FOLDS}/*/{SPLIT}",
    )


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def disjoint(record: Record) -> Fact:
    tables = record.fold_rows or [record.rows]
    shared: dict[str, int] = {}
    for kind in ("group", "hash"):
        places: list[dict[str, set[str]]] = [defaultdict(set) for _ in tables]
        for rows, found in zip(tables, places, strict=True):
            for row in rows:
                if row[kind]:
                    found[row[kind]].add(row["split"])
        shared[kind] = max(sum(len(splits) > 1 for splits in found.values()) for found in places)
    file = f"{FOLDS}/*/{SPLIT}" if record.fold_rows else SPLIT
    if not any(shared.values()):
        level = "group" if len({row["group"] or row["path"] for row in record.rows}) < len(record.rows) else "image"
        return Fact(
            f"The parts are disjoint by {level}: no group has images in two parts, and no two parts share a file of "
            "the same content.",
            file,
        )
    parts = [f"{counted(number, what)} {'has' if number == 1 else 'have'} images in more than one part"
             for number, what in ((shared["group"], "group"), (shared["hash"], "file content")) if number]  # fmt: skip
    return Fact(f"The parts are not independent: {listed(parts)}.", file, met=False)


def inspection(record: Record) -> Fact | None:
    found = record.audit
    if found is None:
        if record.data.get("audit") in (False, "off"):
            return Fact("The images were not inspected for copies and leaks (data.audit=false).", CONFIG, met=False)
        return None
    text = "Before the training, the images were inspected for damaged files, copies, look-alikes and groups"
    if found.verdict == "leaks":
        counts = [f"{found.leaked[split]:,} of {counted(found.splits[split], f'{split} image')}"
                  for split in ("test", "val") if split in found.leaked]  # fmt: skip
        leak = f"{listed(counts)} have {RELATED if found.proven is None else PROVEN}"
        return Fact(f"{text}. Leaks were found: {leak}.", AUDIT, met=False)
    if found.verdict == "clean":
        return Fact(f"{text}. Nothing was found that looks like a leak between the parts.", AUDIT)
    kinds = [f"{plain(finding.kind).replace('_', ' ')} ({finding.count:,})" for finding in found.findings
             if finding.severity != "note"]  # fmt: skip
    return Fact(f"{text}. Findings to be judged by people: {listed(kinds)}.", AUDIT)


def difference_of_parts(record: Record) -> Fact | None:
    finding = next((one for one in record.audit.findings if one.kind == "shift_test"), None) if record.audit else None
    return finding and Fact(plain(finding.message), AUDIT)


def selection_on_test(record: Record) -> Fact | None:
    if not record.selected_on_test:
        return None
    return Fact(f"{SELECTED_ON_TEST[0].upper()}{SELECTED_ON_TEST[1:]}.", INFO, met=False)


def test_apart(record: Record) -> Fact | None:
    """That nothing was chosen on test images: of a run that recorded so."""
    if record.selected_on_test or record.info.get("selected_on_test") is None or record.tested is None:
        return None
    images = "the test images of its fold" if record.run.folds else "the test images"
    return Fact(f"What was chosen while training was chosen on validation images, not on {images}.", INFO)


# --- what a network sees


def preprocessing(record: Record) -> Fact | None:
    data, size = record.data, record.data.get("image_size")
    if not size:
        return None
    square = f"{size} x {size} pixels"
    if data.get("resize") == "pad":
        shape = f"scaled to fit into {square} and padded"
    elif short := data.get("short_side"):
        shape = f"resized so that the shorter side has {short} pixels, of which the central {square} were kept"
    else:
        shape = f"stretched to {square}"
    return Fact(f"Images were decoded to RGB and {shape} (bilinear, antialiased){_normalised(data)}.", CONFIG)


def _normalised(data: Mapping[str, Any]) -> str:
    kind = data.get("normalize")
    if isinstance(kind, dict) and {"mean", "std"} <= kind.keys():
        means, deviations = (" / ".join(f"{float(value):.4g}" for value in kind[name]) for name in ("mean", "std"))
        return f", with values from 0 to 1, less the mean {means} and divided by {deviations} (red / green / blue)"
    words = {
        "unit": ", with values from 0 to 1",
        "imagenet": ", with values from 0 to 1, less the mean of ImageNet, divided by its standard deviation",
        "train": ", with values from 0 to 1, less the mean of the training images, divided by their standard deviation",
    }
    return words.get(str(kind), "")


def augmentation(record: Record) -> Fact | None:
    options = record.config.get("augment")
    if not record.trained:
        return None
    if record.solved:
        return Fact("Training images were not augmented.", CONFIG)
    if not isinstance(options, dict) or not str(options.get("_target_", "")).endswith(".Augment"):
        return None
    parts: list[str] = []
    if policy := options.get("policy"):
        parts.append(f"the policy {plain(policy)}{cite(policy if policy in POLICIES else None)}")
    if flip := options.get("flip"):
        parts.append(f"left-right flips with probability {flip:g}")
    if options.get("quarter_turns"):
        parts.append("turns by multiples of 90 degrees")
    if shift := options.get("shift"):
        parts.append(f"shifts by up to {percent(shift, 0)} of the side")
    scale, ratio = options.get("scale") or [1, 1], options.get("ratio") or [1, 1]
    crop = options.get("crop", 1.0)
    if crop and [*scale, *ratio] != [1] * 4:
        parts.append(
            f"crops of {percent(scale[0], 0)} to {percent(scale[1], 0)} of the area and a width of {ratio[0]:.3g} to "
            f"{ratio[1]:.3g} times the height{'' if crop == 1 else f', with probability {crop:g}'}"
        )
    if color := options.get("color"):
        parts.append(f"brightness, contrast and saturation changed by up to {percent(color, 0)}")
    if options.get("mix"):
        parts.append(f"MixUp{cite('mixup')} and CutMix{cite('cutmix')} by turns")
    if not parts:
        return Fact("Training images were not augmented.", CONFIG)
    return Fact(f"Training images were augmented at random: {'; '.join(parts)}.", CONFIG)


# --- the network and its training


def network(record: Record) -> Fact | None:
    kind = str(record.model.get("_target_", "")).rpartition(".")[2]
    if not kind:
        return None
    own, name = OWN.get(kind), record.model.get("name")
    called = f"The network is “{plain(record.config.get('model_name', kind))}”"
    if own:
        text = f"{called}, {own[0]}{cite(own[1])}"
    elif name:
        timm = "imgbench.models.backbone" in str(record.model["_target_"])
        library = f"of timm{cite('timm')}" if timm else f"of torchvision{cite('torchvision')}"
        text = f"{called}: {plain(name)}{cite(architecture(str(name)))} {library}"
        if kind == "pooled_features":
            text += ", with a linear layer on the pooled features of all its blocks"
    else:
        text = f"{called} ({plain(kind)})"
    if parameters := _from_summary(record, r"Total params: ([\d,]+)"):
        text += f"; it has {parameters} parameters"
    file = CONFIG + (", summary.txt" if parameters else "")
    return Fact(f"{text}.", file)


def architecture(name: str) -> str | None:
    """The key of the paper that describes a network of timm or torchvision; None where it is not known here."""
    return next((key for pattern, key in ARCHITECTURES.items() if re.match(pattern, name)), None)


def _from_summary(record: Record, pattern: str) -> str | None:
    file = record.run.path / "summary.txt"
    found = re.search(pattern, file.read_text("utf-8")) if file.is_file() else None
    return found and found[1]


def weights(record: Record) -> Fact | None:
    facts = (record.info.get("provenance") or {}).get("weights")
    parts, file = [], INFO
    if isinstance(facts, dict):
        name, source, license = (plain(facts.get(key, "unknown")) for key in ("network", "source", "license"))
        where = {"hub": "the Hugging Face Hub (timm)", "torchvision": "torchvision"}.get(source, source)
        parts.append(f"Training started from the weights of {name} from {where}; their licence is {license}.")
        if restriction(license) == "not_commercial":
            parts.append("This licence does not allow commercial use.")
    taught = record.info.get("method") == "distill"
    if record.info.get("compressed_from"):
        parts.append(_compressed(record))
    if taught and not isinstance(facts, dict) and not record.config.get("init_from"):
        parts.append("Its training started from random weights.")
    elif record.info.get("compressed_from"):
        pass
    elif start := record.config.get("init_from"):
        file = f"{INFO}, {CONFIG}"
        parts.append(f"Training started from the weights of an earlier run, {_run_name(start)}.")
    if not parts:
        if record.model.get("pretrained"):
            return Fact("Training started from pretrained weights, whose origin was not recorded.", CONFIG, met=False)
        parts, file = ["Training started from random weights."], CONFIG
    return Fact(" ".join(parts), file)


def _run_name(path: object) -> str:
    """The last part of a run's path: what lies above may name a person or a project."""
    place = Path(str(path))
    place = place.parent.parent if place.parent.name == "checkpoints" else place
    return f"“{plain(place.name)}”"


def _compressed(record: Record) -> str:
    method = plain(record.info.get("method", "an unnamed method"))
    source = _run_name(record.info["compressed_from"].get("path", "unknown"))
    options = ((record.info.get("asked") or {}).get("options") or {}).items()
    kept = {name: value for name, value in options if value is not None and name != "unlabelled"}
    given = [f"{plain(name).replace('_', ' ')} {plain(value)}" for name, value in kept.items()]
    how = f" ({', '.join(given)})" if given else ""
    if method == "distill":
        return f"The network was taught by that of another run, {source} (distillation{cite('distillation')})."
    return f"The network was made from that of another run, {source}, by the method “{method}”{how}."


def training(record: Record) -> Fact | None:
    if not record.trained:
        return None
    if record.solved:
        cut = f" There was time for {plain(cut)}." if (cut := record.info.get("cut_short")) else ""
        return Fact(
            "All other layers kept their weights; the last layer was found by logistic regression on standardised "
            f"features{cite('sklearn')}, whose regularisation was chosen by cross-validation on training images.{cut}",
            CONFIG,
        )
    options = record.config.get("optimizer") or {}
    kind = str(options.get("_target_", "")).rpartition(".")[2]
    if not kind:
        return None
    name, key = OPTIMIZERS.get(kind, (plain(kind), None))
    given = [f"{words} {options[option]:g}" for option, words in (("lr", "learning rate"), ("momentum", "momentum"),
             ("weight_decay", "weight decay")) if isinstance(options.get(option), int | float)]  # fmt: skip
    text = f"The optimiser was {name}{cite(key)}"
    text += f" with {listed(given)}" if given else ""
    schedule = (record.config.get("scheduler") or {}).get("_target_")
    if schedule:
        words, key = SCHEDULES.get(str(schedule).rpartition(".")[2], (plain(schedule), None))
        text += f", and {words}{cite(key)}"
    size, steps = record.data.get("batch_size"), (record.config.get("trainer") or {}).get("accumulate_grad_batches")
    if size:
        text += f", in batches of {counted(int(size))}"
        text += f" whose gradients were summed over {steps} batches" if steps not in (None, 1) else ""
    trainer = record.config.get("trainer") or {}
    if clip := trainer.get("gradient_clip_val"):
        text += f", with gradients clipped to {clip:g}"
    if record.model.get("freeze_backbone"):
        text += ". Only the last layer learnt"
    elif stride := record.model.get("frozen_stride"):
        text += f". The levels whose feature map is at most {stride} times smaller than the image kept their weights"
    of_timm = "imgbench.models.backbone." in str(record.model.get("_target_"))
    if of_timm and record.model.get("pretrained") and not record.config.get("init_from"):
        text += ". The last layer was solved for beforehand, by logistic regression"
    return Fact(f"{text}.", CONFIG)


def loss(record: Record) -> Fact | None:
    options = record.config.get("objective") or {}
    if record.solved or not options or not record.trained:
        return None
    text = "The loss was cross-entropy"
    if str(options.get("_target_", "")).endswith(".DistilledClassifier"):
        text = (
            f"The loss was that of distillation{cite('distillation')}, with temperature {options.get('temperature'):g} "
            f"and the weight {options.get('alpha'):g} of the teacher's probabilities"
        )
    if smoothing := options.get("label_smoothing"):
        text += f" with label smoothing {smoothing:g}"
    return Fact(f"{text}.", CONFIG)


def imbalance(record: Record) -> Fact | None:
    if not record.trained:
        return None
    kind = (record.config.get("objective") or {}).get("class_weights")
    if kind == "balanced":
        return Fact("Rare classes weighed more, in inverse proportion to their training images.", CONFIG)
    return Fact("Classes were not weighted.", CONFIG) if kind == "none" else None


def duration(record: Record) -> Fact | None:
    if record.solved or not record.epochs or not record.trained:
        return None
    done, cut = len(record.epochs), record.info.get("cut_short")
    text = f"Training took {plain(cut) if cut else counted(done, 'epoch')}"
    best, asked = record.info.get("best_epoch"), (record.config.get("trainer") or {}).get("max_epochs")
    stops = record.config.get("callbacks", {}).get("early_stopping")
    if cut:
        text += ", cut short by the time allowed"
    elif stops and asked and done < int(asked):
        text += f" of at most {asked}, and was stopped early"
    text += f"; the weights after epoch {best} were kept." if best else "."
    return Fact(text, f"{EPOCHS}, {INFO}")


def choice(record: Record) -> Fact | None:
    """How the network and the epoch were chosen."""
    parts: list[str] = []
    monitor, on_test = record.config.get("monitor"), False
    if record.compared:
        parts.append(_comparison(record))
        on_test = record.selected_on_test
    elif not record.info.get("method"):
        parts.append("The network was set beforehand; within this run it was compared with no other.")
    if len(record.epochs) > 1 and monitor and record.trained:
        best = (record.config.get("callbacks") or {}).get("best") or {}
        what = "accuracy" if monitor == "val/acc" else plain(monitor)
        images = "test" if record.selected_on_test else "validation"
        on_test = record.selected_on_test
        if monitor == "val/acc" and (errors := float(best.get("standard_errors") or 0)):
            parts.append(
                f"Of the epochs whose accuracy on the {images} images is within {errors:g} standard "
                f"{'error' if errors == 1 else 'errors'} of the highest, the last was kept."
            )
        else:
            parts.append(f"The epoch with the best {what} on the {images} images was kept.")
    return Fact(" ".join(parts), f"{INFO}, {CONFIG}", met=not on_test) if parts else None


def _comparison(record: Record) -> str:
    measured = [one for one in record.compared if one.accuracy is not None]
    each = [f"{plain(one.name)} {describe(one.accuracy)}" for one in measured if one.accuracy]
    taken = next((one for one in record.compared if one.taken), None)
    text = f"{counted(len(measured), 'network was', 'networks were')} trained and compared by the accuracy on the "
    text += f"{'test' if record.selected_on_test else 'validation'} images: {'; '.join(each)}."
    best = max(measured, key=lambda one: one.accuracy.value if one.accuracy else math.nan, default=None)
    if taken is not None:
        why = "" if taken is best else ", a lighter network than the most accurate, from which it cannot be told apart"
        text += f" The network “{plain(taken.name)}” was taken{why}."
    if missed := [plain(one.name) for one in record.compared if one.accuracy is None]:
        text += f" There was no time to train {listed(missed)}."
    return text


# --- the evaluation


def measures(record: Record) -> Fact | None:
    names = [words for name, words in MEASURED.items() if f"test/{name}" in record.metrics]
    if not names:
        return None
    text = f"On the test images were measured: {listed(names)}"
    text += ", and recall, precision, specificity and F1 of each class" if _by_class(record) else ""
    cited = (
        f" The calibration error has 15 bins of equal width{cite('calibration')}."
        if "test/ece" in record.metrics
        else ""
    )
    return Fact(f"{text}.{cited}", METRICS)


def _by_class(record: Record) -> bool:
    return any(name.startswith("test/recall/") for name in record.metrics)


def interval(record: Record) -> Fact | None:
    if record.tested is None:
        return None
    text = f"Each number has a 95 % interval. That of a proportion of independent images is Wilson's{cite('wilson')}."
    grouped = record.tested.groups < record.tested.n
    others = "Means over classes or images" + (", and proportions of images in groups," if grouped else "")
    text += (
        f" {others} have Wilson's interval for the number of independent images that would have the variance "
        f"observed{cite('korn')}."
    )
    if "test/ece" in record.metrics:
        text += " That of the calibration error takes into account what chance alone makes of it."
    if record.run.folds:
        text += (
            f" All are {CROSS_VALIDATED:g} times as wide as of independent answers, since the networks of a "
            "cross-validation have learnt from mostly the same images."
        )
    return Fact(text, METRICS)


def baselines(record: Record) -> Fact | None:
    parts, file = [], METRICS
    if majority := record.metrics.get("test/majority"):
        parts.append(
            f"Always answering “{plain(majority.of_class)}” is right in {percent(majority.value)} of the test images."
        )
    if record.audit and record.audit.shortcuts:
        file = f"{METRICS}, {AUDIT}"
        probes = [f"{plain(name)} {percent(number.value)}" for name, number in record.audit.shortcuts.items()]
        parts.append(f"Probes that see only one cue reach, cross-validated: {', '.join(probes)}.")
    return Fact(" ".join(parts), file) if parts else None


def software(record: Record) -> Fact | None:
    versions = record.info.get("versions")
    if not isinstance(versions, dict) or not versions:
        return None
    cited = {"torch": "pytorch", "lightning": "lightning"}
    names = [
        f"{SOFTWARE.get(name, plain(name))} {plain(number)}{cite(cited.get(name))}" for name, number in versions.items()
    ]
    return Fact(f"The software was imgbench{cite('imgbench')} with {listed(names)}.", INFO)


def code(record: Record) -> Fact | None:
    commit = record.info.get("git_commit")
    if not commit:
        return None
    name, _, changed = str(commit).partition("+")
    text = f"The code of imgbench was that of the git commit {plain(name)}"
    return Fact(f"{text}{', with changes that were not committed' if changed else ''}.", INFO, met=not changed)


def hardware(record: Record) -> Fact | None:
    parts = []
    if platform := record.info.get("platform"):
        parts.append(f"The platform was {plain(platform)}.")
    if device := record.info.get("device"):
        precision = record.info.get("precision")
        parts.append(
            f"Training ran on the device “{plain(device)}”{f', precision {plain(precision)}' if precision else ''}."
        )
    if seconds := record.info.get("seconds"):
        parts.append(f"The run took {_time(float(seconds))} in all.")
    return Fact(" ".join(parts), INFO) if parts else None


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def budget(record: Record) -> Fact | None:
    if (found := read_study(record.run)) is not None:
        return Fact(
            f"The run is part of a study that was given {found['budget']:g} minutes for all its steps.", "study.json"
        )
    if record.compared and record.config.get("budget"):
        return Fact(f"The comparison of networks was given {record.config['budget']:g} minutes.", CONFIG)
    return None


def seed(record: Record) -> Fact | None:
    if not record.trained:
        return None
    number = record.info.get("seed", record.config.get("seed"))
    return None if number is None else Fact(f"The seed of the training was {number}.", INFO)


def reproduction(record: Record) -> Fact | None:
    if not record.trained:
        return None
    return Fact(
        "The resolved configuration was kept; training from it repeats the run: python -m imgbench.train "
        "--config-dir RUN --config-name config.",
        CONFIG,
    )


# --- the results


def accuracy(record: Record) -> Fact:
    if record.tested is None:
        return Fact("No accuracy of test images was recorded.", METRICS, met=False)
    start = "By cross-validation, the accuracy" if record.run.folds else "The accuracy on the test images"
    text = f"{start} is {describe(record.tested)}."
    if unrelated := record.metrics.get("test_unrelated/acc"):
        text += f" Without images that have {RELATED}, it is {describe(unrelated)}."
    return Fact(text, METRICS)


def further_measures(record: Record) -> Fact | None:
    names = ("balanced_acc", "macro_f1", "top5_acc", "auroc", "ap")
    parts = [f"{MEASURED[name].partition(' (')[0]} {describe(number)}" for name in names
             if (number := record.metrics.get(f"test/{name}"))]  # fmt: skip
    return Fact(f"Further measures: {'; '.join(parts)}.", METRICS) if parts else None


def calibration(record: Record) -> Fact | None:
    error, brier = record.metrics.get("test/ece"), record.metrics.get("test/brier")
    if error is None:
        return None
    text = f"The expected calibration error is {describe(error)}."
    text += f" The Brier score is {describe(brier)}." if brier else ""
    temperature, scaled = record.metrics.get("val/temperature"), record.metrics.get("test/ece_scaled")
    if temperature and scaled:
        of_kept = " of the network that is kept" if record.run.folds else ""
        text += (
            f" With the logits divided by a temperature of {temperature.value:.2f}, fitted on the validation images"
            f"{of_kept}, it is {describe(scaled)}."
        )
    return Fact(text, METRICS)


def classes(record: Record) -> Fact | None:
    start = "test/recall/"
    recalls = {name.removeprefix(start): number for name, number in record.metrics.items() if name.startswith(start)}
    tested = {name: number for name, number in recalls.items() if number.n}
    if not tested:
        return None
    ends = []
    for choose, as_much in ((min, "as low"), (max, "as high")):
        value = choose(number.value for number in tested.values())
        names = [name for name, number in tested.items() if number.value == value]
        others = f", {as_much} in {counted(len(names) - 1, 'other class', 'other classes')}" if len(names) > 1 else ""
        ends.append(f"{describe(tested[names[0]])} of “{plain(names[0])}”{others}")
    if len({number.value for number in tested.values()}) == 1:
        text = f"The recall of each class is {percent(next(iter(tested.values())).value)}."
    else:
        text = f"The recall of the classes goes from {' to '.join(ends)}."
    if untested := len(recalls) - len(tested):
        text += f" {counted(untested, 'class has', 'classes have')} no test image, and count in no mean."
    return Fact(text, METRICS)


def failures(record: Record) -> Fact | None:
    if record.tested is None:
        return None
    confusion = confusion_matrix(record.predictions)
    off = confusion * (1 - np.eye(len(confusion), dtype=int))
    wrong = int(off.sum())
    were = "was" if wrong == 1 else "were"
    text = f"{wrong:,} of {counted(int(confusion.sum()), 'test image')} {were} classified wrongly"
    if not wrong:
        return Fact(f"None of {counted(int(confusion.sum()), 'test image')} was classified wrongly.", PREDICTIONS)
    true, predicted = np.unravel_index(int(off.argmax()), off.shape)
    taken = f"“{plain(record.classes[int(true)])}” taken for “{plain(record.classes[int(predicted)])}”"
    if wrong == 1:
        return Fact(f"{text}: {taken}.", PREDICTIONS)
    return Fact(f"{text}; the most frequent mistake was {taken} ({off.max():,}).", PREDICTIONS)


def unsure(record: Record) -> Fact | None:
    """How much has to be left unsure for a promised error, and where that cannot be promised."""
    if not record.selections:
        return None
    kept = [one for one in record.selections if one.threshold is not None]
    others = [percent(one.max_error, 0) for one in record.selections if one.threshold is None]
    parts = [
        f"{percent(one.max_error, 0)} if it answers {describe(one.coverage)} of the validation images" for one in kept
    ]
    text = ""
    if parts:
        text = (
            "With the least sure answers left out, by thresholds chosen on validation images, the share of wrong "
            f"answers is, with 95 % confidence{cite('ltt')}, at most {'; at most '.join(parts)}. "
        )
    if others:
        text += f"An error of at most {listed(others, 'or')} cannot be promised with the validation images at hand."
    return Fact(text.strip(), f"{ACCEPTANCE_FILES[0]}, {PREDICTIONS}")


def novelty(record: Record) -> Fact | None:
    file = record.run.path / FEATURES
    if not file.is_file() or not math.isfinite(limit := novelty_limit_of(kept := read_arrays(file))):
        return None
    beyond = int((kept["distances"] >= limit).sum())
    number = f"{beyond:,} of {counted(len(kept['distances']), 'validation image')}"
    return Fact(
        f"Images are called unlike the training images from a distance of {limit:.4g} between features on; {number} "
        f"{'lies' if beyond == 1 else 'lie'} as far.",
        FEATURES,
    )


def learning_curve(record: Record) -> Fact | None:
    if record.tested is None:
        return None
    curve, _ = read_learning_curve(record.run, record.predictions, record.counts["train"], record.tested)
    points = [f"{images:,}: {describe(number)}" for images, number in curve]
    if len(points) < 2:
        return None
    return Fact(f"The accuracy by the number of training images: {'; '.join(points)}.", LEARNING_CURVE)


def small_models(record: Record) -> Fact | None:
    found = read_study(record.run) or {}
    small = found.get("small")
    if not small or not small.get("rows"):
        return None
    try:
        parts = [
            f"{'the network itself' if row['name'] == ITSELF else plain(row['name'])} {row['size_mb']:.2f} MB, "
            f"{describe(Number.from_dict(row['accuracy']))}"
            for row in small["rows"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{record.run.path / 'study.json'} is damaged: {error!r}. Restore it from a copy.") from error
    target, name = plain(found.get("target", "")), small.get("name")
    if name == ITSELF:
        taken = " No smaller model met it, and the network itself was taken."
    else:
        taken = f" “{plain(name)}” was taken." if name else " None met it."
    return Fact(f"Files of models, with the target {target}: {'; '.join(parts)}.{taken}", "study.json")


def folds(record: Record) -> Fact | None:
    if not record.run.folds:
        return None
    shares = [float((one.predicted == one.targets).mean()) for one in record.fold_predictions]
    text = (
        f"The accuracy of the {len(shares)} folds has the mean {percent(float(np.mean(shares)))} and the standard "
        f"deviation {100 * float(np.std(shares, ddof=1)):.1f} points"
    )
    return Fact(f"{text}.", f"{FOLDS}/*/{PREDICTIONS}")


def model_file(record: Record) -> Fact | None:
    names = [str(path.relative_to(record.run.path)) for path in (record.run.best, record.run.path / "model.onnx")
             if path.is_file()]  # fmt: skip
    if not names:
        return None
    return Fact(f"The trained model was kept: {listed(names)}.", ", ".join(names))


def output(record: Record) -> Fact:
    return Fact(
        "The network answers with a probability for each class; the class is the most probable one.", PREDICTIONS
    )


MAKERS: dict[str, Callable[[Record], Fact | None]] = {
    make.__name__: make
    for make in (
        images, source, labels, left_out, corrections, groups,
        division, disjoint, inspection, difference_of_parts, selection_on_test, test_apart,
        preprocessing, augmentation, network, weights, training, loss, imbalance, duration, choice,
        measures, interval, baselines, software, code, hardware, budget, seed, reproduction,
        accuracy, further_measures, calibration, classes, failures, unsure, novelty, learning_curve, small_models,
        folds, model_file, output,
    )
}  # fmt: skip
