"""Files that somebody made to do harm: each ends in an error that a user can read, and makes nothing else happen.

Every mutation is drawn from a generator that is seeded with its number, and knows the format: a value of another type
or without measure, a missing entry, a name of a module, a path that leads elsewhere, an address, a formula, an alias.
What readers do is seen by an audit hook (https://peps.python.org/pep-0578/), in a process of its own, since a hook
stays.
"""

import contextlib
import csv
import functools
import io
import json
import logging
import math
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from imgbench.benchmark.development.faults import PRELOADED, STARTER
from imgbench.benchmark.development.fuzz import DAMAGE
from imgbench.errors import DecodeError, UserError

log = logging.getLogger(__name__)

MOST_MEMORY = 2 << 30  # bytes of address space, beyond what the process had before
LONGEST = 60  # seconds of one file
CANARY = "imgbench_canary"  # a module at hand that no file may have imported
SECRET = "S3CR3T-of-the-environment"

# What runs nothing, leads nowhere and is looked up by nobody.
TEXTS = (
    "", " ", "../../outside.csv", "../secret.txt", "/etc/passwd", "{outside}", "{outside}/made.csv", "a\0b", "\x1b[31m",
    "\ud800", "‮gpj", "=cmd|'/C calc'!A0", "<script>x</script>", "http://127.0.0.1:9/x", "file:///etc/passwd",
    "https://example.invalid/w.ckpt", "${{oc.env:IMGBENCH_SECRET}}", "${{data}}", "${{", "${{model_name}}", "os.system",
    f"{CANARY}.Net", f"imgbench.{CANARY}", "torch.hub.load", "imgbench.files.write_atomically",
    "imgbench.models.weights.os.system", "timm.create_model", "torchvision.models.list_models", "torch.nn.Module",
    "__import__('os').system('touch {outside}/made')", "!!python/object/apply:os.system ['touch {outside}/made']",
    "nan", "inf", "-1", "1e999", "9" * 400, "x" * 70_000, "[" * 5_000, "*alias", "&a [x]", "\r\n", "null", "~", "%s%n",
    "hf-hub:nobody/none", "hub", "CON", "C:\\x", "//server/x", "~/x.csv", "$HOME", "`id`", "$(id)", ";id", "--help",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 1e308, -0.0, 1e-320, math.nan, math.inf, -math.inf, True)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@dataclass(frozen=True)
class Bait:
    """What mutations name: a folder that nothing may be read from or written to."""

    outside: Path

    def text(self, rng: random.Random) -> str:
        return rng.choice(TEXTS).replace("{outside}", str(self.outside)).replace("{{", "{").replace("}}", "}")

    def value(self, rng: random.Random) -> Any:
        kind = rng.randrange(12)
        if kind < 5:
            return self.text(rng)
        if kind < 8:
            return rng.choice(NUMBERS)
        return rng.choice(
            [
                None,
                [],
                {},
                [None],
                [[]],
                {"": None},
                nested(rng.choice((3, 60))),
                [self.text(rng)] * 3,
                {"_target_": self.text(rng), "path": str(self.outside / "made")},
                {"_target_": "os.system", "command": "id"},
                {"_args_": [self.text(rng)]},
                {self.text(rng): self.text(rng)},
                [1] * 5_000,
                {"value": {}},
            ]
        )


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all entries of nested dictionaries and lists."""
    items: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from places(value, (*at, key))


def mutated(tree: Any, bait: Bait, rng: random.Random) -> Any:
    """A tree with one to three entries changed, removed, added or exchanged; or something else altogether."""
    tree = json.loads(json.dumps(tree)) if not _has_tensors(tree) else _copied(tree)
    if rng.random() < 0.03:
        return bait.value(rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        ways = list(places(tree))
        if not ways:
            return bait.value(rng)
        # Half of the changes meet an entry near the root, of which there are few.
        way = rng.choice([one for one in ways if len(one) <= 2] if rng.random() < 0.5 else ways)
        node: Any = tree
        for key in way[:-1]:
            node = node[key]
        key: Any = [*way][-1]
        kind = rng.randrange(10)
        if kind < 6:
            node[key] = bait.value(rng)
        elif kind == 6:
            del node[key]
        elif kind == 7 and isinstance(node, dict):
            node[rng.choice(["_target_", "_args_", "_partial_", "defaults", "hydra", bait.text(rng)])] = bait.value(rng)
        elif kind == 8 and isinstance(node, dict):
            node[bait.text(rng)] = node.pop(key)
        elif isinstance(node[key], str):
            node[key] += bait.text(rng)
        else:
            node[key] = [node[key]]
    return tree


def _has_tensors(tree: Any) -> bool:
    if isinstance(tree, dict):
        return any(map(_has_tensors, [*tree.keys(), *tree.values()]))
    return (
        any(map(_has_tensors, tree))
        if isinstance(tree, list | tuple)
        else not isinstance(tree, str | int | float | None)
    )


def _copied(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return [*map(_copied, tree)] if isinstance(tree, list) else tree


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes cut, changed, moved or zeroed."""
    return rng.choice(DAMAGE)(data, np.random.default_rng(rng.randrange(2**32)))


def mutated_table(text: str, bait: Bait, rng: random.Random) -> bytes:
    """CSV with another cell, column or line, or damaged as bytes."""
    rows = list(csv.reader(io.StringIO(text)))
    for _ in range(rng.choice((1, 1, 2, 5))):
        row = rng.choice(rows[:2] if rng.random() < 0.3 else rows)
        place, kind = rng.randrange(max(1, len(row))), rng.randrange(9)
        value = str(rng.choice(NUMBERS)) if rng.random() < 0.3 else bait.text(rng)
        if kind < 5 and row:
            row[place] = value
        elif kind == 5:
            row.insert(place, value)
        elif kind == 6 and row:
            del row[place]
        elif kind == 7:
            rows.append(list(row))
        elif len(rows) > 1:
            rows.remove(row)
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    text = file.getvalue()
    if rng.random() < 0.1:
        text = rng.choice(
            [text.replace("\n", "\r"), '"' + text, text.replace(",", ";"), text + text, text.replace(",", "")]
        )
    data = text.encode("utf-8", "surrogatepass")
    return damaged(data, rng) if rng.random() < 0.15 else data


def mutated_json(text: str, bait: Bait, rng: random.Random) -> bytes:
    if rng.random() < 0.05:
        return rng.choice(
            [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"a":' * 100_000, b"\0", b'"' + b"x" * 10**6, b"\xff"]
        )
    data = json.dumps(mutated(json.loads(text), bait, rng), indent=1).encode()
    return damaged(data, rng) if rng.random() < 0.1 else data


YAMLS = (
    "!!python/object/apply:os.system ['touch {outside}/made']\n", "a: &a [x]\nb: [*a, *a]\n", "a: !!binary x\n",
    "!!python/name:os.system ''\n", "a: !include /etc/passwd\n", "%YAML 9.9\n---\na: b\n", "a: b\n---\nc: d\n",
    "data: !!set {{a, b}}\n", "? [a]\n: b\n", "data: 2001-01-01\n", "[" * 20_000, "a: " * 5_000, "\t", "{{[\n",
    "<<: {{}}\n",
)  # fmt: skip


def mutated_yaml(text: str, bait: Bait, rng: random.Random) -> bytes:
    if rng.random() < 0.08:
        added = rng.choice(YAMLS).replace("{outside}", str(bait.outside)).replace("{{", "{").replace("}}", "}")
        return rng.choice([added, text + added, added + text]).encode()
    tree = mutated(yaml.safe_load(text), bait, rng)
    data = yaml.safe_dump(tree, sort_keys=False, allow_unicode=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return damaged(data, rng) if rng.random() < 0.1 else data


def mutated_excel(text: str, bait: Bait, rng: random.Random) -> bytes:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in list(csv.reader(io.StringIO(mutated_table(text, bait, rng).decode("utf-8", "ignore"), newline="")))[:50]:
        with contextlib.suppress(Exception):  # of control characters, openpyxl has an error of its own
            sheet.append([cell[:30_000] for cell in row])
    if rng.random() < 0.3:
        with contextlib.suppress(Exception):
            sheet.cell(2, 1, rng.choice(['=HYPERLINK("http://127.0.0.1:9")', 1e300, True, None]))
    file = io.BytesIO()
    book.save(file)
    return damaged(file.getvalue(), rng) if rng.random() < 0.4 else file.getvalue()


def mutated_lines(text: str, bait: Bait, rng: random.Random) -> bytes:
    """JSON lines."""
    rows = [*csv.DictReader(io.StringIO(text))]
    rows = mutated(rows, bait, rng)
    lines = [json.dumps(row) for row in rows] if isinstance(rows, list) else [json.dumps(rows)]
    data = ("\n".join(lines) + rng.choice(["", "\n", "\n[]", "\n{", "\n" + "[" * 50_000])).encode()
    return damaged(data, rng) if rng.random() < 0.15 else data


def mutated_parquet(text: str, bait: Bait, rng: random.Random) -> bytes:
    import pyarrow
    from pyarrow import parquet

    rows = [*csv.DictReader(io.StringIO(text))]
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    name = rng.choice([*columns])
    values = [bait.text(rng).encode("utf-8", "ignore").decode(), 3, 1e300, None, b"\xff", [1, 2], {"a": 1}]
    columns[rng.choice([name, "more", ""])] = [rng.choice(values)] * len(rows)
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return damaged(file.getvalue(), rng) if rng.random() < 0.5 else file.getvalue()


def mutated_onnx(data: bytes, bait: Bait, rng: random.Random) -> bytes:
    """An ONNX file with other metadata, or whose inputs, outputs or constants are said to be others."""
    import onnx

    model = onnx.load_from_string(data)
    kind = rng.randrange(10)
    for entry in model.metadata_props:
        if kind < 7 and entry.key == "imgbench":
            entry.value = mutated_json(entry.value, bait, rng).decode("utf-8", "replace")
    if kind == 7:
        constant = rng.choice(model.graph.initializer)  # such as lie in another file
        constant.ClearField("raw_data")
        constant.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (
            ("location", rng.choice(["../../secret.txt", str(bait.outside / "secret.txt"), "x"])),
            ("offset", "0"),
        ):
            constant.external_data.add(key=key, value=value)
    elif kind == 8:
        rng.choice([*model.graph.input, *model.graph.output]).name = bait.text(rng).encode("utf-8", "ignore").decode()
    result = model.SerializeToString()
    return damaged(result, rng) if kind == 9 else result


def mutated_checkpoint(data: bytes, bait: Bait, rng: random.Random) -> bytes:
    """A checkpoint whose plain entries are others, or whose weights are of other shapes, or that holds pickled code."""
    import torch

    content = torch.load(io.BytesIO(data), weights_only=True)
    kind = rng.randrange(12)
    if kind < 6:
        content["hyper_parameters"] = mutated(content["hyper_parameters"], bait, rng)
    elif kind < 8:
        rest = {key: value for key, value in content.items() if key != "state_dict"}
        content = {
            **(new if isinstance(new := mutated(rest, bait, rng), dict) else {}),
            "state_dict": content["state_dict"],
        }
    elif kind < 10:
        weights = content["state_dict"]
        name = rng.choice([*weights])
        weights[name] = rng.choice(
            [torch.zeros(1).expand(2**40), torch.zeros(0), torch.zeros(3, 3).to_sparse(), bait.value(rng),
             torch.full_like(weights[name], math.nan), torch.zeros(2, dtype=torch.complex64), weights[name][None]]
        )  # fmt: skip
    elif kind == 10:
        content["hyper_parameters"]["class_names"] = _Calls(str(bait.outside / "made"))
    file = io.BytesIO()
    torch.save(content, file)
    return damaged(file.getvalue(), rng) if kind == 11 else file.getvalue()


class _Calls:
    """Unpickled, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def mutated_arrays(data: bytes, bait: Bait, rng: random.Random) -> bytes:
    with np.load(io.BytesIO(data)) as content:
        arrays = dict(content)
    name = rng.choice([*arrays])
    arrays[name] = rng.choice(
        [np.zeros(0), np.float64(math.nan), np.array("x"), np.zeros((2, 2, 2)), np.array(2**62), np.full(5, math.inf),
         arrays[name][..., None], arrays[name].astype(str), np.array([{"a": 1}], object)]
    )  # fmt: skip
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)
    return damaged(file.getvalue(), rng) if rng.random() < 0.4 else file.getvalue()


def _of_bytes(data: bytes, bait: Bait, rng: random.Random) -> bytes:
    return damaged(data, rng)


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
    """All that comes before the first step."""
    from imgbench.experiment.build import build_trainer, check_resume
    from imgbench.experiment.compose import override
    from imgbench.experiment.train import begin, resolve
    from imgbench.run import Run

    run = Run.open(home / "run")
    config = override(run, ["trainer.max_epochs=3", "trainer.accelerator=cpu"], anew=False)
    experiment = resolve(config)
    shutil.rmtree(home / "new", ignore_errors=True)
    (home / "new").mkdir()
    classifier = begin(Run(home / "new"), experiment)
    build_trainer(experiment.config, experiment.settings, home / "new")
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
    from imgbench.publish.card import card
    from imgbench.run import Run

    return len(card(Run.open(home / "run"), home / "run" / "model.onnx"))


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


KINDS: dict[str, Kind] = {
    "config.yaml": Kind("run/config.yaml", mutated_yaml, (_read_run, _resume, _train, _compare, _predict, _review)),
    "run.json": Kind("run/run.json", mutated_json, (_read_run, _resume, _compare, _card, _report)),
    "split.csv": Kind("run/split.csv", mutated_table, (_read_run, _compare, _predict, _evaluate, _card, _review)),
    "audit.json": Kind("run/audit.json", mutated_json, (_read_run, _card, _report)),
    "study.json": Kind("run/study.json", mutated_json, (_resume, _report)),
    "metrics.json": Kind("run/metrics.json", mutated_json, (_evaluate, _card)),
    "metrics.csv": Kind("run/metrics.csv", mutated_table, (_read_run, _resume, _report)),
    "learning_curve.json": Kind("run/learning_curve.json", mutated_json, (_report,)),
    "predictions.csv": Kind("run/predictions.csv", mutated_table, (_compare, _predict)),
    "validation.csv": Kind("run/validation.csv", mutated_table, (_predict, _evaluate)),
    "features.npz": Kind("run/features.npz", mutated_arrays, (_predict,), binary=True),
    "multirun.yaml": Kind("sweep/multirun.yaml", mutated_yaml, (_sweep,)),
    "corrections.csv": Kind("photos/corrections.csv", mutated_table, (_review, _compare)),
    "labels.csv": Kind("labels.csv", mutated_table, (_labelled("csv"),)),
    "labels.xlsx": Kind("labels.xlsx", mutated_excel, (_labelled("xlsx"),), made_of="labels.csv"),
    "labels.jsonl": Kind("labels.jsonl", mutated_lines, (_labelled("jsonl"),), made_of="labels.csv"),
    "labels.parquet": Kind("labels.parquet", mutated_parquet, (_labelled("parquet"),), made_of="labels.csv"),
    "shard index": Kind("shards/*.csv", mutated_table, (_shards,)),
    "shard": Kind("shards/*.tar", _of_bytes, (_shards, _index_anew), binary=True),
    "ONNX file": Kind("run/model.onnx", mutated_onnx, (_predict, _card), binary=True),
    "checkpoint": Kind("run/checkpoints/best.ckpt", mutated_checkpoint, (_predict,), binary=True),
    "last checkpoint": Kind("run/checkpoints/last.ckpt", mutated_checkpoint, (_train,), binary=True),
}


def absolute(path: Any) -> str:
    return os.path.abspath(os.fsdecode(path))  # noqa: PTH100 without a look at the disk, which would be seen


class Watch:
    """What was done between `begin` and `end` that no file may bring about; a hook cannot be taken off again."""

    def __init__(self, home: Path) -> None:
        self.home, self.outside = str(home), str(home.parent / "outside")
        self.on, self.reading = False, True
        self.found: list[str] = []
        self.known: set[str] = set()

    def begin(self, reading: bool) -> None:
        """Args:
        reading: whether the file may name what is read, as data are by `config.yaml`.
        """
        self.known = {name.partition(".")[0] for name in sys.modules} | set(sys.stdlib_module_names)
        self.reading, self.found, self.on = reading, [], True

    def end(self) -> list[str]:
        self.on = False
        return self.found

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "import":
            name = str(arguments[0]).partition(".")[0]
            if name not in self.known or CANARY in str(arguments[0]):
                self.found.append(f"imports {arguments[0]}")
        elif event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike):
                self._opened(absolute(path), bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
        elif event in CHANGES:
            for path in arguments[: CHANGES[event]]:
                if isinstance(path, str | bytes | os.PathLike):
                    self._opened(absolute(path), True)
        elif event.startswith(CALLS) or event in CALLS:
            self.found.append(f"{event} {str(arguments)[:200]}")

    def _opened(self, path: str, written: bool) -> None:
        inside = path.startswith((self.home + os.sep, "/dev/null", "/dev/shm", "/proc/self")) or path == self.home
        if written and not inside:
            self.found.append(f"writes {path}")
        elif not self.reading and path.startswith(self.outside):
            self.found.append(f"reads {path}")


# Event -> how many of its arguments are paths that change.
CHANGES = {"os.mkdir": 1, "os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.truncate": 1, "os.link": 2,
           "os.chmod": 1, "os.chown": 1, "shutil.rmtree": 1, "shutil.move": 2, "os.symlink": 2}  # fmt: skip
CALLS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.", "socket.connect",
         "socket.getaddrinfo", "socket.bind", "socket.gethostby", "socket.sendto", "urllib.", "ftplib.", "webbrowser.",
         "pickle.find_class", "ctypes.dlopen", "pty.", "smtplib.")  # fmt: skip


class _TooLong(BaseException):
    pass


def _too_long(*_: object) -> None:
    raise _TooLong


def try_files(home: Path, kind: str, number: int, first: int, answer: Callable[[tuple[int, str, str]], object]) -> None:
    """Tries so many mutated files of a kind, in this process, which is spoilt by it; answers (number, outcome, why).

    Args:
        home: a folder of `prepare_home`, which only this process uses.
        first: the number of the first mutation.
    """
    import signal

    import torch

    warnings.simplefilter("ignore")  # as commands do
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    sys.path.insert(0, str(home / "modules"))
    os.chdir(home)
    os.environ |= {"IMGBENCH_CACHE": str(home / "cache"), "IMGBENCH_SECRET": SECRET, "TMPDIR": str(home / "temporary")}
    tempfile.tempdir = None
    bait, which = Bait(home.parent / "outside"), KINDS[kind]
    place = next(home.glob(which.place))
    whole = place.read_bytes()
    source = (home / which.made_of).read_bytes() if which.made_of else whole
    watch = Watch(home)
    sys.addaudithook(watch)
    watch.begin(reading=True)
    for reader in which.readers:  # so that what is imported for good files is imported, and each reader reads
        reader(home)
    usual = set(watch.end())  # such as a library that is looked for
    place.write_bytes(whole)
    signal.signal(signal.SIGALRM, _too_long)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, resource.RLIM_INFINITY))
    kept = {
        path: path.read_bytes() for path in [*(home / "run").rglob("*"), *(home / "sweep").rglob("*")] if path.is_file()
    }
    for i in range(first, first + number):
        rng = random.Random(f"{kind} {i}")
        reader = which.readers[i % len(which.readers)]
        data = which.mutate(source if which.binary else source.decode("utf-8-sig"), bait, rng)
        place.write_bytes(data)
        outside = sorted(path.name for path in bait.outside.iterdir())
        signal.alarm(LONGEST)
        watch.begin(reading=kind in ("config.yaml", "multirun.yaml"))
        why = ""
        try:
            found = reader(home)
            outcome = "read" if SECRET not in repr(found) else "the secret is looked up"
        except (UserError, DecodeError) as error:
            outcome, why = "named", str(error)
            if not str(error).strip():
                outcome = "an error that says nothing"
            elif SECRET in str(error):
                outcome = "the secret is told"
        except _TooLong:
            outcome, why = "too long", traceback.format_exc()[-1500:]
        except BaseException as error:
            outcome, why = f"{type(error).__name__}", traceback.format_exc()[-2500:]
        finally:
            done = [one for one in watch.end() if one not in usual]
            signal.alarm(0)
        if done:
            outcome, why = "does something", "; ".join(done)
        if sorted(path.name for path in bait.outside.iterdir()) != outside:
            outcome, why = "makes a file outside", str(outside)
        for path, content in kept.items():
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)
        place.write_bytes(whole)
        answer((i, f"{outcome}, {reader.__name__}" if outcome not in GOOD else outcome, why))


GOOD = ("read", "named")


def _try_all(connection: Connection, home: Path, kind: str, number: int, first: int) -> None:
    with Path(os.devnull).open("w") as nowhere:  # what libraries in C++ write, and notes of commands
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    try:
        try_files(home, kind, number, first, connection.send)
    except BaseException:
        connection.send((-1, "the harness", traceback.format_exc()[-3000:]))


def prepare_home(home: Path) -> None:
    """Photographs, a run of them with all that runs may have, tables of labels and shards; and what lies outside."""
    from imgbench.data.shard_writer import write_shards
    from imgbench.experiment.build import build_data
    from imgbench.experiment.compose import compose
    from imgbench.inference import parity
    from imgbench.report.study_file import begin_study
    from imgbench.run import Run
    from imgbench.train import train

    os.environ["IMGBENCH_CACHE"] = str(home / "cache")
    rng = np.random.default_rng(0)
    for label, shade in (("dark", 60), ("light", 180)):
        folder = home / "photos" / label
        folder.mkdir(parents=True)
        for i in range(16):
            pixels = (shade + rng.integers(0, 60, (24, 24, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    config = compose([f"data.root={home / 'photos'}", "model=cnn", "data.image_size=20", "data.batch_size=8",
                      "augment=none", "trainer.accelerator=cpu", "trainer.max_epochs=1", "data.audit=on"])  # fmt: skip
    run = Run(home / "run")
    train(config, run)
    parity.export_onnx(run.path)
    begin_study(run, "drop<=3pt", 1.0)
    (run.path / "learning_curve.json").write_text(
        json.dumps(
            {"points": [{"images": 8, "test/acc": {"value": 0.5, "low": 0.1, "high": 0.9, "n": 6}, "wrong": []}]}
        )
    )
    shutil.copytree(run.path, home / "other")
    write_shards(build_data(config).table, home / "shards", 100, 0)
    complete_home(home)


def complete_home(home: Path) -> None:
    """What needs no training."""
    import openpyxl
    import pyarrow
    from pyarrow import parquet

    from imgbench.data.corrections import Decision, add_decisions
    from imgbench.run import Run

    rows = Run(home / "run").split_rows()
    add_decisions(home / "photos" / "corrections.csv", [
        Decision(rows[0]["hash"], rows[0]["path"], "right", by="a"),
    ])  # fmt: skip
    table = [["file", "class", "age"], *([row["path"], row["class"], str(i)] for i, row in enumerate(rows))]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(table)
    (home / "labels.csv").write_text(file.getvalue())
    book = openpyxl.Workbook()
    for row in table:
        book.worksheets[0].append(row)
    book.save(home / "labels.xlsx")
    records = [dict(zip(table[0], row, strict=True)) for row in table[1:]]
    (home / "labels.jsonl").write_text("\n".join(map(json.dumps, records)))
    parquet.write_table(pyarrow.Table.from_pylist(records), home / "labels.parquet")
    (home / "sweep").mkdir()
    content = {"hydra": {"overrides": {"task": ["seed=1,2"], "hydra": []}, "job": {"config_name": "train"}}}
    (home / "sweep" / "multirun.yaml").write_text(yaml.safe_dump(content))
    (home / "modules").mkdir()
    (home / "modules" / f"{CANARY}.py").write_text("class Net: ...\n")
    (home / "temporary").mkdir()
    outside = home.parent / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text(SECRET)


def measure_hostile(number: int, kinds: Sequence[str] = tuple(KINDS)) -> dict[str, dict[str, float]]:
    """For each kind of file: the share of mutated ones that were read or named, and made nothing else happen."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder).resolve()
        prepare_home(base / "home")
        STARTER.set_forkserver_preload(PRELOADED)
        for kind in kinds:
            rows[kind] = _measured(base, kind, max(1, number // len(kinds)))
    return rows


def _measured(base: Path, kind: str, number: int) -> dict[str, float]:
    receiving, sending = STARTER.Pipe(duplex=False)
    begun, counts, tried = time.perf_counter(), Counter[str](), 0
    while tried < number:
        process = STARTER.Process(target=_try_all, args=(sending, base / "home", kind, number - tried, tried))
        process.start()
        sending.close()
        with contextlib.suppress(EOFError):
            while tried < number:
                i, outcome, why = receiving.recv()
                if i < 0:
                    raise UserError(f"{kind} could not be tried:\n{why}")
                counts[outcome] += 1
                tried += 1
                if outcome not in GOOD:
                    log.warning("%s %d: %s\n%s", kind, i, outcome, why)
        process.join()
        receiving, sending = STARTER.Pipe(duplex=False)
        if tried < number:
            log.warning("%s %d has ended the process with %s", kind, tried, process.exitcode)
            counts["ended the process"] += 1
            tried += 1
    good = counts["read"], counts["named"]
    return {
        "value": sum(good) / number, "read": good[0], "named": good[1], "others": number - sum(good),
        "seconds": time.perf_counter() - begun,
    }  # fmt: skip
