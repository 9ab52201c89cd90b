"""What an evaluation leaves in a directory: predictions, numbers with intervals, pictures, one page."""

import base64
import html
import json
from pathlib import Path

from imgbench.evaluation.metrics import Number, classification_metrics, confusion_matrix, describe
from imgbench.evaluation.plots import draw_confusion
from imgbench.evaluation.predictions import Predictions

SELECTED_ON_TEST = "the model was selected on its own test images: the accuracy is too good"


def write_results(
    folder: Path, title: str, results: dict[str, Predictions], selected_on_test: bool
) -> dict[str, Number]:
    """Writes metrics.json of all splits in `results`, and predictions.csv and confusion.png of the first."""
    metrics: dict[str, Number] = {}
    for split, predictions in results.items():
        metrics |= classification_metrics(predictions, split)
    split, predictions = next(iter(results.items()))
    warning = f"\n({SELECTED_ON_TEST})" if selected_on_test else ""
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (folder / "predictions.csv").write_text(predictions.to_csv(), "utf-8", errors="surrogateescape")
    heading = f"{title}\n{split} accuracy {describe(metrics[f'{split}/acc'])}{warning}"
    draw_confusion(confusion_matrix(predictions), predictions.class_names, folder / "confusion.png", heading)
    return metrics


PICTURES = {"curves": "Learning", "confusion": "Which classes are confused", "samples": "What the network sees"}


def write_report(folder: Path, title: str, metrics: dict[str, Number], selected_on_test: bool) -> None:
    """`report.html`: the numbers, the pictures and the model of a run in one self-contained page."""
    overall = {name: number for name, number in metrics.items() if name.count("/") == 1}
    by_class = {name: number for name, number in metrics.items() if name not in overall}
    pictures = "".join(_picture(folder / f"{name}.png", caption) for name, caption in PICTURES.items())
    warning = f'<p class="warning">Note: {SELECTED_ON_TEST}.</p>' if selected_on_test else ""
    summary = folder / "summary.txt"
    model = f"<pre>{html.escape(summary.read_text('utf-8'))}</pre>" if summary.exists() else ""
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
  table {{ border-collapse: collapse; }} td {{ padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #ddd; }}
  img {{ max-width: 100%; }} figure {{ margin: 1.5rem 0; }} figcaption {{ color: #777; }}
  .warning {{ background: #fff3cd; padding: .5rem 1rem; }} summary {{ cursor: pointer; margin: .5rem 0; }}
  pre {{ overflow-x: auto; font-size: 12px; line-height: 1.2; }}
</style>
<h1>{html.escape(title)}</h1>
{warning}
{_table(overall)}
{pictures}
<details><summary>Precision and recall of each class</summary>{_table(by_class)}</details>
{f"<details><summary>Model</summary>{model}</details>" if model else ""}
</html>
"""
    (folder / "report.html").write_text(page, "utf-8")


def _table(metrics: dict[str, Number]) -> str:
    cells = ((html.escape(name), html.escape(describe(number))) for name, number in metrics.items())
    return "<table>" + "".join(f"<tr><td>{name}</td><td>{number}</td></tr>" for name, number in cells) + "</table>"


def _picture(path: Path, caption: str) -> str:
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )
