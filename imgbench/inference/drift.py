"""Whether photographs that come one after the other are still like those that a run was validated on."""

import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from imgbench.data.collection import Collection
from imgbench.data.look import digest
from imgbench.data.shards import Photograph
from imgbench.data.taken import date_taken
from imgbench.decode import open_image
from imgbench.errors import DecodeError, UserError
from imgbench.evaluation.martingale import Seen, Watch, first_alarm, shares_of
from imgbench.files import cores, sha256
from imgbench.inference.acceptance import VALIDATION, Calibration
from imgbench.inference.classify import BATCH
from imgbench.inference.journal import Journal
from imgbench.inference.predictor import Predictor
from imgbench.progress import Step
from imgbench.run import Run

DIGITS = re.compile(r"[\d\W_]+")  # of a name that cameras count on, and what stands between them
OPTION = "A test for drift"  # in errors
COLUMNS = ("path", "date", "predicted", "novelty", "p value of novelty", "novelty martingale", "class martingale",
           "content", "error")  # fmt: skip
LEARNT = "the run has learnt from it or was chosen by it"


class Row(NamedTuple):
    """A photograph of the table: what was found of it, or why it was left out."""

    photograph: Photograph
    date: str
    content: str  # a hash
    predicted: int = -1
    novelty: float = math.nan
    seen: Seen | None = None
    error: str = ""


@dataclass
class Stream:
    """The photographs of a table in its order, and how they came into it."""

    run: Run
    class_names: list[str]
    calibration: Calibration
    watch: Watch
    rows: list[Row] = field(default_factory=list)
    earlier: int = 0  # of the rows, those of earlier calls
    again: int = 0  # photographs of this call that were in the table before, or are copies of one that is
    order: Literal["date", "name", "random"] = "date"  # in which the others of this call were added
    undated: list[str] = field(default_factory=list)  # those of them that do not say when they were taken

    @property
    def counted(self) -> list[Row]:
        """The rows that were compared."""
        return [row for row in self.rows if row.seen is not None]

    @property
    def seen(self) -> list[Seen]:
        return [row.seen for row in self.rows if row.seen is not None]

    @property
    def left_out(self) -> list[Row]:
        return [row for row in self.rows if row.seen is None]

    @property
    def alarm(self) -> int | None:
        """The number of the photograph, of those that were compared, at which the alarm was raised."""
        return first_alarm(self.seen)

    @property
    def groups(self) -> bool:
        """Whether of several validation images that belong together one was taken."""
        return any(self.calibration.validation.groups)

    def add(self, row: Row) -> Row:
        if not row.error:
            row = row._replace(seen=self.watch.see(row.novelty, row.predicted))
        self.rows.append(row)
        return row


def watch(path: str | Path, collection: Collection, output: Path | None) -> Stream:
    """Compares the photographs of a collection, after those that are in the table `output` already.

    Raises:
        UserError: there is no model or no photograph, the run has not kept what they are compared with, or the table
            is of something else, damaged, or cannot be written.
    """
    collection.count()
    predictor = Predictor.load(path)
    calibration = Calibration.open(path, predictor.model, OPTION)
    run, validation = calibration.run, calibration.validation
    seed = int(run.config.get("seed") or 0)
    names = predictor.class_names
    learnt = Counter(row["class"] for row in run.split_rows("train"))
    shares = shares_of(np.array([learnt[name] for name in names]))
    watched = Watch(calibration.distances, validation.predicted, shares, seed)
    stream = Stream(run, names, calibration, watched)
    if output is None:
        for rows in _scored(stream, predictor, _ordered(stream, _new(stream, collection, set()))):
            for row in rows:
                stream.add(row)
        return stream
    if output.suffix.lower() != ".csv":
        raise UserError(f"--output {output} should end in .csv.")
    file = Path(path) if Path(path).is_file() else run.model
    assert file is not None  # the predictor was loaded from it
    source = {
        "run": str(run.path.resolve()),
        "classes": predictor.class_names,
        "model": sha256(file),
        "validation": sha256(run.path / VALIDATION),
        "seed": seed,
    }
    plain = collection.plain and all(map(str.isascii, predictor.class_names))
    begun = time.time()
    journal = Journal(output, COLUMNS, source, BATCH, marked=not plain)
    try:
        for cells in journal:
            stream.add(_read(cells, predictor.class_names, output))
        stream.earlier = len(stream.rows)
        unchanged = {str(row.photograph) for row in stream.rows if not _changed(row, journal.begun)}
        failed = {str(row.photograph) for row in stream.left_out}
        new = _ordered(stream, _new(stream, collection, unchanged))
        for rows in _scored(stream, predictor, new):
            # What was left out before has a row already.
            rows = [stream.add(row) for row in rows if not (row.error and str(row.photograph) in failed)]
            journal.append([_cells(row, predictor.class_names) for row in rows])
        journal.begin_anew(begun)
        journal.complete()
    finally:
        journal.close()
    return stream


def _changed(row: Row, begun: float | None) -> bool:
    """Whether a file may hold something else than when its row was written; one that was left out is tried again."""
    try:
        facts = Path(str(row.photograph)).stat()
    except OSError:  # it is gone, or lies in a tar
        return bool(row.error)
    return bool(row.error) or begun is None or max(facts.st_mtime, facts.st_ctime) > begun


def _new(stream: Stream, collection: Iterable[Photograph], unchanged: set[str]) -> list[Row]:
    """What is not in the table yet, by its content."""
    known = {row.content for row in stream.counted}
    learnt = {row["hash"] for row in stream.run.split_rows() if row["split"] in ("train", "val")}
    names = Counter(unchanged)
    found: list[Row] = []
    waiting: list[Photograph] = []
    for photograph in collection:
        if names[str(photograph)]:
            stream.again += 1
        else:
            waiting.append(photograph)
    with ThreadPoolExecutor(cores()) as pool, Step("Reading dates", len(waiting)) as progress:
        for row in pool.map(_look, waiting):
            progress.advance(1)
            if row.content in learnt:
                found.append(row._replace(error=LEARNT))
            elif row.content and row.content in known:
                stream.again += 1
            else:
                known.add(row.content)
                found.append(row)
    return found


def _look(photograph: Photograph) -> Row:
    """Its content and its date, or why it cannot be read as far as that shows without its pixels."""
    try:
        data = photograph.read_bytes()
    except OSError as error:
        return Row(photograph, "", "", error=error.strerror or str(error))
    row, date = Row(photograph, "", digest(data).hex()), date_taken(data)
    if date is not None:
        return row._replace(date=date)
    try:
        open_image(data)
    except DecodeError as error:
        return row._replace(error=str(error))
    return row


def _ordered(stream: Stream, rows: list[Row]) -> list[Row]:
    """By date, if all say when they were taken; else by names that differ in numbers alone, as cameras count.

    Other names, and folders, might put one class after the other.

    Those that cannot be read come last. Any order is right that does not depend on what the photographs show.
    """
    readable, failed = [row for row in rows if not row.error], [row for row in rows if row.error]
    paths = [Path(str(row.photograph)) for row in readable]
    stream.undated = [str(row.photograph) for row in readable if not row.date]
    if not stream.undated:
        stream.order = "date"
        readable = sorted(readable, key=lambda row: row.date)
    elif len({(path.parent, DIGITS.sub("", path.stem)) for path in paths}) > 1:
        stream.order = "random"
        # Hashes are as good as random numbers, and the same for what a killed call has left.
        readable = sorted(readable, key=lambda row: row.content)
    else:
        stream.order = "name"
    return readable + failed


def _scored(stream: Stream, predictor: Predictor, rows: Sequence[Row]) -> Iterator[list[Row]]:
    """With what the model says of them, batch by batch."""
    by_name = {str(row.photograph): row for row in rows}
    good = [row.photograph for row in rows if not row.error]
    failed = iter([row for row in rows if row.error])
    with Step("Comparing photographs", len(rows)) as progress:
        for batch in predictor.stream(stream.calibration.function, good, BATCH):
            answered: list[Row] = []
            for photograph, values in batch:
                row = by_name[str(photograph)]
                if isinstance(values, str):
                    answered.append(row._replace(error=values))
                else:
                    novelty = float(np.float32(values[-1]))
                    answered.append(row._replace(predicted=int(values[:-1].argmax()), novelty=novelty))
            yield answered
            progress.advance(len(batch))
        if rest := list(failed):
            yield rest


def _cells(row: Row, class_names: Sequence[str]) -> list[str]:
    found = ["", "", "", "", ""]
    if row.seen is not None:
        known = row.seen.p is not None
        found = [
            class_names[row.predicted],
            str(np.float32(row.novelty)) if known else "",  # the shortest digits that tell a float32
            f"{row.seen.p:.6g}" if known else "",
            _power(row.seen.novelty) if known else "",
            _power(row.seen.classes),
        ]
    return [str(row.photograph), row.date, *found, row.content, row.error]


def _power(level: float) -> str:
    """What 10 to the power of it is; no number of a table is larger than 1e300."""
    return f"{10 ** min(level, 300):.5g}"


def _read(cells: dict[str, str], class_names: list[str], table: Path) -> Row:
    """A row of the table, with all that is needed to compute the rest anew."""
    row = Row(Path(cells["path"]), cells["date"], cells["content"], error=cells["error"])
    if row.error:
        return row
    try:
        novelty = float(cells["novelty"] or "0")
        if not math.isfinite(novelty):
            raise ValueError(f"novelty {novelty}")
        return row._replace(predicted=class_names.index(cells["predicted"]), novelty=novelty)
    except ValueError as error:
        raise UserError(
            f"{table} is damaged at {cells['path']}: {error}.\nRestore it, or name another file."
        ) from error
