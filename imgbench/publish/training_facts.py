"""What a run has recorded of its network, its training and its machine, as sentences for a paper and a checklist."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgbench.evaluation.metrics import describe
from imgbench.language import counted
from imgbench.models.weights import restriction
from imgbench.publish.recorded import CONFIG, EPOCHS, INFO, Fact, Record, cite, listed, percent, plain
from imgbench.report.study_file import read_study

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
    if isinstance(size, int):
        text += f", in batches of {counted(size)}"
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
        text = f"The loss was that of distillation{cite('distillation')}"
        names = {"temperature": "temperature", "alpha": "weight of the teacher's probabilities"}
        given = [
            f"{words} {options[name]:g}" for name, words in names.items() if isinstance(options.get(name), int | float)
        ]
        text += f", with {listed(given)}," if given else ""
    if smoothing := options.get("label_smoothing"):
        text += f" with label smoothing {smoothing:g}"
    return Fact(f"{text.rstrip(',')}.", CONFIG)


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


def epochs(record: Record) -> Fact | None:
    """How the validation accuracy went; of several epochs."""
    shares = [float(row.get("val/acc") or "nan") for row in record.epochs]
    if len(shares) < 2:
        return None
    best = record.info.get("best_epoch")
    kept = best if isinstance(best, int) and 1 <= best <= len(shares) else len(shares)
    first, last = shares[0], shares[kept - 1]
    if not (math.isfinite(first) and math.isfinite(last)):
        return Fact(f"The training took {len(shares)} epochs.", EPOCHS)
    images = "test" if record.selected_on_test else "validation"
    text = f"The accuracy on the {images} images was {percent(first)} after the first epoch"
    text += f" and {percent(last)} after epoch {kept}" if kept > 1 else ""
    return Fact(f"{text}{', whose weights were kept' if kept == best else ''}.", f"{EPOCHS}, {INFO}")


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
