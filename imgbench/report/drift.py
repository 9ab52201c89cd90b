"""What `drift` says, in a terminal and on a page."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from imgbench.data.collection import Collection
from imgbench.decode import open_image
from imgbench.errors import DecodeError
from imgbench.evaluation.martingale import ALARM, RISK, pushes
from imgbench.evaluation.photographs import SIDE
from imgbench.evaluation.plots import Chart, Line, as_svg, draw_charts
from imgbench.files import write_atomically
from imgbench.inference.drift import Row, Stream, watch
from imgbench.language import language_of_locale
from imgbench.report.advice import command
from imgbench.report.catalogue import Texts
from imgbench.report.page import Advice, percent, templates_of
from imgbench.run import Run
from imgbench.stored_config import switched_on

SHOWN = 12  # photographs
NAMED = 10  # of those left out, and undated
FEW = 50  # validation images, with which a change is noticed late
POINTS = 500  # of a line
LEAST = 0.02  # powers of ten that a photograph moved the martingale, to be shown


def drift(path: str | Path, collection: Collection, output: Path | None) -> int:
    """Compares, prints what was found, and writes the page beside the table; returns 1 where somebody has to look.

    Raises:
        UserError: as of `watch`.
    """
    stream = watch(path, collection, output)
    folder = _folder(stream, collection)
    english = Texts("en")
    print("\n".join(conclusion(stream, english)))
    if stream.alarm is not None:
        print("\n".join(f"{one.text}\n  {one.command}" for one in remedies(stream.run, folder, english)))
    for row in stream.left_out[:NAMED]:
        print(f"  {row.photograph}: {row.error}")
    if output is not None:
        page = output.with_suffix(".html")
        language = (stream.run.config.get("report") or {}).get("language") or language_of_locale()
        write_atomically(page, drift_page(stream, folder, language), errors="replace")
        print(f"Written  {output}, {page}")
    if collection.unreadable:
        print(f"Not looked into:{collection.describe_unreadable()}")
    return int(stream.alarm is not None or bool(stream.left_out) or bool(collection.unreadable))


def _folder(stream: Stream, collection: Collection) -> Path:
    """Where the latest photographs lie."""
    last = Path(str(stream.counted[-1].photograph)) if stream.seen else Path("DIR") / "x"
    return next((folder for folder in collection.folders if last.is_relative_to(folder)), last.parent)


def conclusion(stream: Stream, t: Texts) -> list[str]:
    """The answer in its first sentence, then what it rests on."""
    seen, alarm, validation = stream.seen, stream.alarm, len(stream.calibration.validation.paths)
    if not seen:
        said = [t("drift_nothing")]
    elif alarm is None:
        largest = max(one.level for one in seen)
        said = [t("drift_none", n=len(seen), largest=_power(largest), alarm=f"{ALARM:g}")]
    else:
        row = stream.counted[alarm]
        taken = f", {row.date}" if row.date else ""
        said = [
            t("drift_found", n=len(seen)),
            f"{t('drift_when', number=alarm + 1, path=str(row.photograph), taken=taken)} {_what(stream, alarm, t)}",
            t("drift_void"),
            t("drift_chance", risk=percent(RISK, 0)),
        ]
    said.append(t("drift_compared", n=validation))
    if validation < FEW:
        said.append(t("drift_few"))
    if stream.calibration.distances is None:
        said.append(t("drift_no_novelty"))
    if stream.groups:
        said.append(t("drift_groups"))
    if any(row.seen for row in stream.rows[stream.earlier :]):
        said.append(_order(stream, t))
    if stream.earlier:
        said.append(t("drift_continued", n=stream.earlier))
    if stream.again:
        said.append(t("drift_again", n=stream.again))
    if stream.left_out:
        said.append(t("drift_left_out", n=len(stream.left_out)))
    return said


def _what(stream: Stream, alarm: int, t: Texts) -> str:
    """In which way the photographs up to the alarm differ."""
    rows, last = stream.counted[: alarm + 1], stream.seen[alarm]
    if last.novelty >= last.classes:
        p = [one.p for one in stream.seen[: alarm + 1] if one.p is not None]
        return t("drift_farther" if np.mean(p) < 0.5 else "drift_nearer")
    label = last.moved_class
    share = float(np.mean([row.predicted == label for row in rows]))
    before = float((stream.calibration.validation.predicted == label).mean())
    return t("drift_class", name=stream.class_names[label], share=percent(share), before=percent(before))


def _order(stream: Stream, t: Texts) -> str:
    if stream.order == "date":
        return t("drift_by_date")
    key = "drift_by_name" if stream.order == "name" else "drift_at_random"
    return t(key, n=len(stream.undated), path=stream.undated[0])


def _power(level: float) -> str:
    """What 10 to the power of it is, as far as a number can be read."""
    return f"{10**level:.2g}" if level < 4 else f"10^{level:.0f}"


def remedies(run: Run, folder: str | Path, t: Texts) -> list[Advice]:
    """What to do where the alarm was raised."""
    review = f"{command('review', run)} --unlabelled {shlex.quote(str(folder))}"
    return [
        Advice(t("drift_label"), review),
        Advice(t("drift_evaluate"), f"{command('evaluate', run)} --data DIR"),
    ]


def drift_page(stream: Stream, folder: str | Path, language: str) -> str:
    """The page as HTML."""
    t = Texts(language)
    moved = _moved(stream)
    with_pictures = switched_on(stream.run.config, "data.thumbnails")
    return (
        templates_of("imgbench.report")
        .get_template("drift.html.jinja")
        .render(
            t=t,
            run=str(stream.run.shown),
            changed=stream.alarm is not None,
            said=conclusion(stream, t),
            chart=_chart(stream, t) if stream.seen else None,
            caption=t("drift_caption", alarm=f"{ALARM:g}", risk=percent(RISK, 0)),
            advice=remedies(stream.run, folder, t) if stream.alarm is not None else [],
            moved=[_photograph(row, push, stream.class_names, with_pictures) for row, push in moved],
            shown=with_pictures,
            left_out=stream.left_out[:NAMED],
            more=max(0, len(stream.left_out) - NAMED),
        )
    )


def _chart(stream: Stream, t: Texts) -> Markup:
    seen, alarm = stream.seen, stream.alarm
    chosen = np.unique(np.linspace(0, len(seen) - 1, min(POINTS, len(seen))).astype(int))
    if alarm is not None:
        chosen = np.union1d(chosen, [alarm])
    numbers = [float(i + 1) for i in chosen]
    lines = [Line(t("drift_classes_line"), numbers, [seen[i].classes for i in chosen])]
    if stream.calibration.distances is not None:
        lines.insert(0, Line(t("drift_novelty_line"), numbers, [seen[i].novelty for i in chosen]))
    values = [value for line in lines for value in line.y]
    line = math.log10(ALARM)
    ends = (1.0, max(2.0, float(len(seen))))
    chart = Chart(
        t("drift_title"),
        t("drift_number"),
        t("drift_axis"),
        lines,
        x_range=ends,
        y_range=(min(-1.0, *values), 1.05 * max(line + 0.5, *values)),
        guides=[Line(t("drift_alarm_line"), ends, (line, line))],
    )
    return Markup(as_svg(draw_charts([chart], None), chart.title))


def _moved(stream: Stream) -> list[tuple[Row, float]]:
    """The photographs that moved the martingale up most, until the alarm if there was one, and by how much."""
    until = len(stream.seen) if stream.alarm is None else stream.alarm + 1
    if not until:
        return []
    push = pushes(stream.seen[:until])
    rows = stream.counted
    return [(rows[i], float(push[i])) for i in np.argsort(-push, kind="stable")[:SHOWN] if push[i] > LEAST]


def _photograph(row: Row, push: float, class_names: Sequence[str], with_picture: bool) -> dict[str, Any]:
    image = None
    if with_picture:
        try:
            picture = open_image(row.photograph.read_bytes())
            picture.thumbnail((SIDE, SIDE))
            image = np.asarray(picture)
        except (OSError, DecodeError):  # it is gone, or lies in a tar of an earlier call
            pass
    assert row.seen is not None
    return {
        "path": str(row.photograph),
        "date": row.date,
        "predicted": class_names[row.predicted],
        "p": None if row.seen.p is None else f"{row.seen.p:.2g}",
        "push": f"{10**push:.2g}",
        "image": image,
    }
