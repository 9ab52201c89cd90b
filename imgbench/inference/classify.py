"""Classifies the images of a collection one batch after the other, and keeps what was found."""

import functools
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgbench.cells import visible
from imgbench.data.collection import Collection
from imgbench.data.shards import Photograph
from imgbench.decode import open_image
from imgbench.distributed import SHARED, Cluster, Launcher, in_units, launched
from imgbench.errors import UserError
from imgbench.files import sha256
from imgbench.inference.journal import Journal
from imgbench.inference.novelty import Novelty
from imgbench.inference.prediction_file import FACTS, check_ending, class_columns, prediction_file, readable
from imgbench.inference.predictor import Predictor
from imgbench.inference.sorting import OUTDATED, How, Sorter
from imgbench.language import counted, probability
from imgbench.progress import Step
from imgbench.run import Run

if TYPE_CHECKING:
    from imgbench.evaluation.prediction_sets import PredictionSets

BATCH = 32  # images; written, and gone on from, as a whole
MOST = 10  # problems named at the end


@dataclass(frozen=True)
class Answer:
    """What was found of a file: a prediction, accepted or not, or why it cannot be read."""

    photograph: Photograph
    predicted: str = ""
    probabilities: np.ndarray | None = None
    unsure: str = ""
    error: str = ""
    classes: Sequence[str] = ()  # that cannot be ruled out, where sets are asked for

    @property
    def path(self) -> str:
        return str(self.photograph)


def classify(
    run: str | Path,
    collection: Collection,
    top_k: int = 1,
    output: Path | None = None,
    save_images: Path | None = None,
    max_error: float | None = None,
    sort_into: Path | None = None,
    how: How = "link",
    sets: float | None = None,
    launcher: Launcher | None = None,
) -> int:
    """Prints the most probable classes of each image, or writes them; returns how much could not be read or sorted.

    Raises:
        UserError: there is no model, or the results cannot be written, or the run cannot promise `max_error`, or there
            is no cluster.
    """
    if output:
        check_ending(output)
    if sort_into:
        _check_sorting(sort_into, collection, output)
    if save_images:
        _refuse_searched("--save-images", save_images, collection, "would be classified the next time")
    images = collection.count()
    with launched(launcher) as cluster:
        classifier = Classifier(run, max_error, sets, cluster)
        if sort_into:
            output = output or sort_into / "predictions.csv"
        if output is None:
            report = _print_each(classifier, collection, top_k, save_images)
        else:
            sorter = Sorter(sort_into, classifier.class_names, how) if sort_into else None
            report = _write_all(classifier, collection, images, output, sorter, save_images, top_k)
            print(visible(report.summary(output, sorter)))
    if max_error is not None:
        print(classifier.promise(report))
    if classifier.sets is not None:
        print(classifier.sets.promise())
    if collection.unreadable:
        number = counted(len(collection.unreadable), "place")
        print(visible(f"{number} could not be read:{collection.describe_unreadable()}"))
    return report.failed + len(report.left) + len(collection.unreadable)


def _check_sorting(folder: Path, collection: Collection, output: Path | None) -> None:
    """Raises UserError: what is sorted would be found again as if it were new, or cannot be sorted."""
    if collection.shards:
        raise UserError(
            f"--sort-into {folder}: photographs lie in {collection.shards[0]}, and only files can be sorted.\n"
            f"Unpack it, and name the folder; or use --output, which needs no files."
        )
    _refuse_searched("--sort-into", folder, collection, "would be found again")
    if output and output.suffix.lower() == ".json":
        raise UserError(f"--output {output}: --sort-into keeps what it did in a .csv or .parquet, to go on from there.")


def _refuse_searched(option: str, folder: Path, collection: Collection, consequence: str) -> None:
    """Raises UserError: pictures would be written where pictures are looked for."""
    for searched in collection.folders:
        if folder.resolve().is_relative_to(searched.resolve()):
            raise UserError(
                f"{option} {folder} lies in {searched}, which is searched for images: what is put there {consequence}."
                "\nName a folder elsewhere, or name the folders in it that hold the photographs."
            )


class Classifier:
    """A run as a function of files, that may call its answers unsure; with a cluster, its processes compute them."""

    def __init__(
        self, run: str | Path, max_error: float | None, sets: float | None = None, cluster: Cluster | None = None
    ) -> None:
        self.run, self.max_error, self.cluster = run, max_error, cluster
        self.predictor = Predictor.load(run)
        self.class_names = self.predictor.class_names
        model = self.predictor.model
        self.acceptance: Novelty | None = None
        self.sets: PredictionSets | None = None
        if sets is not None:
            from imgbench.inference.acceptance import prediction_sets

            self.sets = prediction_sets(run, model, sets)
        if max_error is not None:
            from imgbench.inference.acceptance import Acceptance

            self.acceptance = Acceptance.open(run, model, max_error)
        else:
            self.acceptance = Novelty.of(run, model)

    def source(self) -> dict[str, Any]:
        """What results are of, so that those of another model are not added to them."""
        path = Path(self.run)
        file = path if path.is_file() else Run.open(path).model
        assert file is not None  # the predictor was loaded from it
        facts = {"classes": self.class_names, "max_error": self.max_error, "model": sha256(file)}
        if self.sets is not None:
            facts["sets"] = self.sets.coverage
        return {"run": str(path.resolve()), **facts}

    def promise(self, report: "Report") -> str:
        """What is known of the accepted ones, where `max_error` was asked for."""
        from imgbench.inference.acceptance import Acceptance

        assert isinstance(self.acceptance, Acceptance)
        return self.acceptance.promise(report.accepted, report.accepted + report.unsure)

    def __call__(self, photographs: Iterable[Photograph]) -> Iterator[list[Answer]]:
        if self.cluster:
            coverage = self.sets and self.sets.coverage
            work = functools.partial(_answers, str(self.run), self.max_error, coverage, self.source())
            for batches in self.cluster.map(work, in_units(photographs)):
                for answers in batches:
                    yield [_seen_here(answer) for answer in answers]
            return
        for batch in self.predictor.stream(self.acceptance or self.predictor.model, photographs, BATCH):
            yield [self._answer(photograph, values) for photograph, values in batch]

    def _answer(self, photograph: Photograph, values: np.ndarray | str) -> Answer:
        if isinstance(values, str):
            return Answer(photograph, error=values)
        probabilities = values[: len(self.class_names)]
        doubt = self.acceptance.doubt(values) if self.acceptance else None
        classes = self.sets.names(probabilities) if self.sets else ()
        label = self.predictor.prediction(probabilities).label
        return Answer(photograph, label, probabilities, doubt or "", classes=classes)

    def described(self, answer: Answer, top_k: int) -> str:
        """What a terminal says of a photograph that could be read."""
        text = "  ".join(self.ranked(answer, top_k))
        if answer.unsure:
            text = f"unsure: {answer.unsure} ({text})"
        return text if self.sets is None else f"{' or '.join(answer.classes)}  ({text})"

    def ranked(self, answer: Answer, top_k: int) -> list[str]:
        assert answer.probabilities is not None
        prediction = self.predictor.prediction(answer.probabilities)
        return [f"{name} {probability(p)}" for name, p in list(prediction.probabilities.items())[:top_k]]


@functools.cache  # by a process of a cluster, which answers one unit after the other
def _loaded(run: str, max_error: float | None, sets: float | None) -> tuple[Classifier, dict[str, Any]]:
    classifier = Classifier(run, max_error, sets)
    return classifier, classifier.source()


def _answers(
    run: str, max_error: float | None, sets: float | None, source: dict[str, Any], photographs: list[Photograph]
) -> list[list[Answer]]:
    """Those of a unit, in batches, by a process of a cluster.

    Raises:
        UserError: the model is another one there.
    """
    classifier, own = _loaded(run, max_error, sets)
    if own != source:
        raise UserError(f"launcher=ray: {run} is another model on a machine of the cluster. {SHARED}")
    return list(classifier(photographs))


def _seen_here(answer: Answer) -> Answer:
    """Raises UserError: what a process of a cluster did not find is there all the same."""
    if answer.error.startswith("[Errno 2]") and isinstance(answer.photograph, Path) and answer.photograph.is_file():
        raise UserError(f"launcher=ray: a machine of the cluster has no {answer.path}. {SHARED}")
    return answer


class Report:
    """What was found so far, in numbers."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # of the accepted answers
        self.unsure = self.failed = 0
        self.errors: list[str] = []  # the first of them
        self.left: list[str] = []  # what was not put where it belongs, and why

    def add(self, path: str, predicted: str, unsure: str, error: str) -> None:
        if error:
            self.failed += 1
            if len(self.errors) < MOST:
                self.errors.append(f"{path}: {error}")
        elif unsure:
            self.unsure += 1
        else:
            self.counts[predicted] += 1

    @property
    def accepted(self) -> int:
        return sum(self.counts.values())

    def summary(self, output: Path, sorter: Sorter | None) -> str:
        total = self.accepted + self.unsure + self.failed
        found = [f"{name}: {number:,}" for name, number in self.counts.most_common()]
        found += [f"unsure: {self.unsure:,}"] * bool(self.unsure) + [f"unreadable: {self.failed:,}"] * bool(self.failed)
        lines = [f"{counted(total, 'file')}  {', '.join(found)}"]
        lines += [f"  {error}" for error in self.errors]
        if self.failed > MOST:
            lines.append(f"  ... all of them in the column `error` of {output}")
        lines.append(f"Written  {output}")
        if sorter:
            done = {"link": "links", "copy": "copies", "move": "moved photographs"}[sorter.how]
            lines.append(f"Sorted   {sorter.folder}: {done}, a folder for each class")
            if sorter.outdated:
                lines.append(
                    f"Outdated {sorter.outdated:,} copies of photographs that have changed: {sorter.folder / OUTDATED}"
                )
        if self.left:
            lines.append(f"{counted(len(self.left), 'photograph was', 'photographs were')} left in place:")
            lines += [f"  {text}" for text in self.left[:MOST]]
        return "\n".join(lines)


def _print_each(classifier: Classifier, collection: Collection, top_k: int, save_images: Path | None) -> Report:
    report = Report()
    index = 0
    for answers in classifier(collection):
        for answer in answers:
            report.add(answer.path, answer.predicted, answer.unsure, answer.error)
            if answer.error:
                print(visible(f"{answer.path}  skipped: {answer.error}"))
            else:
                print(visible(f"{answer.path}  {classifier.described(answer, top_k)}"))
                if save_images:
                    save_image(answer, save_images, index, classifier.ranked(answer, top_k))
            index += 1
    if report.failed:
        print(f"{report.failed} of {index} files skipped")
    return report


def _write_all(
    classifier: Classifier,
    collection: Collection,
    images: int,
    output: Path,
    sorter: Sorter | None,
    save_images: Path | None,
    top_k: int,
) -> Report:
    """Appends what was not yet found to the file, and sorts it."""
    report = Report()
    asked = [*(["classes"] if classifier.sets else []), *(["unsure"] if classifier.acceptance else [])]
    facts = ["path", "predicted", "probability", *asked, "error"]
    columns = [*facts, *(["placed"] if sorter else []), *class_columns(classifier.class_names)]
    source = classifier.source()
    if sorter:
        source |= {"sorted_into": str(sorter.folder.resolve()), "sorted_by": sorter.how}
    # What was sorted must stay known, to the last row.
    plain = collection.plain and all(map(str.isascii, columns))
    begun = time.time()
    with prediction_file(output, columns, source, 1 if sorter else BATCH, plain) as journal:
        again = _renew(classifier, journal, sorter, report)
        journal.begin_anew(begun)
        known = _take_up(journal, report, sorter)
        index = journal.rows
        if index:
            renewed = f"; {again:,} of them, which have changed or could not be read, were tried again" if again else ""
            print(f"Going on with {output}, which has {counted(index, 'file')} already{renewed}.")
        paths = (path for path in collection if not _is_known(readable(str(path)), known))
        try:
            with Step("Classifying images", images, min(index, images)) as progress:
                for answers in classifier(paths):
                    places = [_place(answer, sorter) for answer in answers]
                    journal.append(
                        [_cells(answer, place, columns) for answer, place in zip(answers, places, strict=True)]
                    )
                    for answer, place in zip(answers, places, strict=True):
                        report.add(answer.path, answer.predicted, answer.unsure, answer.error)
                        if save_images and not answer.error:
                            save_image(answer, save_images, index, classifier.ranked(answer, top_k))
                        if sorter and place:
                            _put(sorter, answer.path, place, report)
                        index += 1
                    progress.advance(len(answers))
        except KeyboardInterrupt:
            print(f"\nInterrupted. {journal.path} has {counted(journal.rows, 'file')}; the same command goes on.")
            raise
    return report


def _renew(classifier: Classifier, journal: Journal, sorter: Sorter | None, report: Report) -> int:
    """Classifies and sorts again the files that could not be read, or that have changed since; returns how many.

    Their rows stay where they are in the file. One that was moved holds for the photograph that is in its place now.
    """
    outdated = {
        number: row
        for number, row in enumerate(journal)
        if _is_outdated(row, journal.begun) and not (sorter and sorter.how == "move" and row["placed"])
    }
    if not outdated:
        return 0
    answers: list[Answer] = []
    with Step("Classifying changed images", len(outdated)) as progress:
        for batch in classifier(Path(row["path"]) for row in outdated.values()):
            answers += batch
            progress.advance(len(batch))
    places = [
        sorter.choose_anew(answer.path, row["placed"], None if answer.error else answer.predicted, bool(answer.unsure))
        if sorter
        else ""
        for answer, row in zip(answers, outdated.values(), strict=True)
    ]
    cells = [_cells(answer, place, journal.columns) for answer, place in zip(answers, places, strict=True)]
    if cells != [list(row.values()) for row in outdated.values()]:
        journal.replace(dict(zip(outdated, cells, strict=True)))
    for answer, place in zip(answers, places, strict=True):
        if sorter and place:
            _put(sorter, answer.path, place, report)
    return len(outdated)


def _is_outdated(row: dict[str, str], begun: float | None) -> bool:
    try:
        facts = Path(row["path"]).stat()
    except OSError:  # it is gone, or lies in a tar; what was found of it stays
        return False
    # A file that was copied over another keeps its own date, but not the time of that change.
    return bool(row["error"]) or (begun is not None and max(facts.st_mtime, facts.st_ctime) > begun)


def _is_known(path: str, known: Counter[str]) -> bool:
    """Whether there is a row of it; a file that was named twice has two."""
    if not known[path]:
        return False
    known[path] -= 1
    return True


def _take_up(journal: Journal, report: Report, sorter: Sorter | None) -> Counter[str]:
    """Counts what an earlier call has written, and does what it had only written; returns the names of the files."""
    known: Counter[str] = Counter()
    last: deque[dict[str, str]] = deque(maxlen=BATCH)  # no more were written before they were put in their places
    for row in journal:
        report.add(row["path"], row["predicted"], row.get("unsure", ""), row["error"])
        if sorter and sorter.how == "move" and row["placed"] and sorter.is_replaced(row["path"], row["placed"]):
            continue  # another photograph has come under the name of one that was moved
        known[readable(row["path"])] += 1
        last.append(row)
    for row in last:
        if sorter and row["placed"]:
            _put(sorter, row["path"], row["placed"], report)
    return known


def _place(answer: Answer, sorter: Sorter | None) -> str:
    """A place for what can be sorted; else nothing."""
    if sorter is None or answer.error:
        return ""
    return sorter.choose(answer.path, answer.predicted, bool(answer.unsure))


def _put(sorter: Sorter, path: str, place: str, report: Report) -> None:
    if reason := sorter.place(path, place):
        report.left.append(f"{path}: {reason}")


def _cells(answer: Answer, place: str, columns: list[str]) -> list[str]:
    facts = {"path": answer.path, "unsure": answer.unsure, "error": answer.error, "placed": place}
    facts["classes"] = " | ".join(answer.classes)
    row = answer.probabilities
    values = [] if row is None else [str(value) for value in row]  # the shortest digits that tell a float32
    facts |= {"predicted": answer.predicted, "probability": "" if row is None else str(row.max())}
    cells = [facts[name] for name in columns if name in FACTS]
    return cells + (values or [""] * (len(columns) - len(cells)))


def save_image(answer: Answer, folder: Path, index: int, ranked: list[str]) -> None:
    """Draws the image under its prediction; the index keeps images of the same name apart."""
    from imgbench.evaluation.plots import draw_prediction  # needs matplotlib, a second

    text = ("unsure: " if answer.unsure else "") + " / ".join(ranked)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(open_image(answer.photograph.read_bytes()))
        draw_prediction(pixels, text, folder / f"{index + 1:04d}_{Path(answer.path).stem}.png")
    except OSError as error:
        raise UserError(f"--save-images {folder} cannot be written: {error.strerror}. Name another place.") from error
