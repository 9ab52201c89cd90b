"""Measures this machine: `python -m imgbench.benchmark what=[step,data] model=cnn data=sneakers`."""

import importlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from imgbench.errors import UserError
from imgbench.experiment.compose import with_one_model
from imgbench.files import write_atomically
from imgbench.hydra_entry import hydra_command
from imgbench.run import Run

if TYPE_CHECKING:
    from imgbench.benchmark.rounds import Timing

UNITS = {
    "step": "ms per step",
    "data": "images/s",
    "epoch": "seconds per epoch",
    "neighbour": "seconds",
    "growth": "seconds",
    "shards": "microseconds of the processor per image",
    "audit": "share of planted copies that are found",
    "shortcuts": "share of the larger class's errors that the audit's best probe avoids",
    "coverage": "share of 95 % intervals that hold the truth",
    "kills": "share of killed runs that, resumed, end as one that was not killed",
    "fuzz": "share of damaged files that are decoded or named",
    "hostile": "share of files made to do harm that are read or named, and do nothing else",
    "faults": "share of failing calls for files that end in one error or a success, with nothing lost",
    "labelling": "labels to come within a point of the accuracy of all",
    "drift": "share of streams with a false alarm; photographs until a change is noticed",
}
# What measures imgbench itself: its module in `development`, which only a clone has, its function and its setting.
DEVELOPMENT = {
    "growth": ("growth", "measure_growth", "sizes"),
    "shards": ("shards", "measure_shards", "sizes"),
    "audit": ("planted_copies", "measure_audit", None),
    "shortcuts": ("planted_shortcuts", "measure_shortcuts", None),
    "coverage": ("coverage", "measure_coverage", "draws"),
    "kills": ("kills", "measure_kills", "kills"),
    "fuzz": ("fuzz", "measure_fuzz", "files"),
    "hostile": ("hostile.trial", "measure_hostile", "seconds"),
    "faults": ("faults", "measure_faults", "faults"),
    "labelling": ("labelling", "measure_labelling", None),
    "drift": ("drift", "measure_drift", None),
}
PHOTOGRAPHS = "photographs"  # what=[data] measures them too


@hydra_command("benchmark")
def main(config: DictConfig) -> None:
    unknown = set(config.what) - set(UNITS)
    if unknown:
        raise UserError(f"what=[{','.join(config.what)}], but it takes any of {', '.join(UNITS)}.")
    of_a_clone = [kind for kind in config.what if kind in DEVELOPMENT]
    if of_a_clone and importlib.util.find_spec("imgbench.benchmark.development") is None:
        raise UserError(
            f"what=[{','.join(of_a_clone)}] measures imgbench itself, and is not part of the installed package. Run it "
            "in a clone of the repository; here there are "
            f"{', '.join(kind for kind in UNITS if kind not in DEVELOPMENT)}."
        )
    config = with_one_model(config)
    from imgbench.evaluation.plots import draw_bars
    from imgbench.experiment.build import build_data, plain, with_facts

    if None in (config.data.num_classes, config.data.image_size):
        config = with_facts(config, build_data(config))
    settings: dict[str, Any] = plain(config)
    run = Run(Path(HydraConfig.get().runtime.output_dir))
    with run.recorded():
        kinds = [*settings["what"], *([PHOTOGRAPHS] if "data" in settings["what"] else [])]
        results = {kind: measure(kind, settings) for kind in kinds}
        write_atomically(run.path / "benchmark.json", json.dumps(results, indent=2) + "\n")
        for kind, rows in results.items():
            what = {
                "growth": "small generated images",
                "shards": "small generated images in shards",
                PHOTOGRAPHS: "generated photographs of 12 megapixels",
                "audit": config.data_name,
                "shortcuts": f"two classes of {config.data_name}",
                "coverage": "simulated test images",
                "kills": "a small network on digits",
                "fuzz": "files of all formats",
                "hostile": "files of a run, tables and shards",
                "faults": "a small network on generated images",
                "labelling": f"frozen features of {config.data_name}",
                "drift": f"a frozen network on {config.data_name}",
            }.get(kind, f"{config.model_name} on {config.data_name}")
            unit = UNITS["data" if kind == PHOTOGRAPHS else kind]
            print_table(f"{unit}: {what}", rows)
            draw_bars({name: row["value"] for name, row in rows.items()}, run.path / f"{kind}.png", unit)
        print(f"Written to {run.shown}")


def measure(kind: str, settings: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Value, ratio to imgbench, peak of memory and all rounds of each variant."""
    from imgbench.benchmark.step import matmul_rate, measure_step, step_operations
    from imgbench.training import fast

    if kind in DEVELOPMENT:
        module, function, setting = DEVELOPMENT[kind]
        work = getattr(importlib.import_module(f"imgbench.benchmark.development.{module}"), function)
        return work(settings if setting is None else settings[setting])
    if kind == "epoch":
        from imgbench.benchmark.epoch import measure_epoch

        return _rows(measure_epoch(settings, settings["rounds"]), lambda seconds: seconds)
    if kind == "neighbour":
        from imgbench.benchmark.neighbour import measure_neighbours

        works = measure_neighbours(settings, settings["rounds"])
        return {
            name: row for timings in works.values() for name, row in _rows(timings, lambda seconds: seconds).items()
        }
    if kind == "data":
        from imgbench.benchmark.data import measure_data

        return _rows(measure_data(settings, settings["rounds"]), lambda seconds: 1 / seconds)
    if kind == PHOTOGRAPHS:
        from imgbench.benchmark.data import measure_photographs

        return _rows(measure_photographs(settings, settings["rounds"]), lambda seconds: 1 / seconds)
    timings = measure_step(settings, settings["steps"], settings["rounds"])
    rows = _rows(timings, lambda seconds: 1000 * seconds)
    resolved, device = fast.apply(fast.FastSettings(**settings["fast"]), settings["trainer"]["accelerator"])
    possible = step_operations(settings) / matmul_rate(device, resolved.precision)  # seconds at the full rate
    for name, timing in timings.items():
        rows[name]["share of the machine's matrix-multiply rate"] = possible / timing.median
    return rows


def _rows(timings: "dict[str, Timing]", show: Any) -> dict[str, dict[str, Any]]:
    first = next(iter(timings.values()))
    return {
        name: {
            "value": show(timing.median),
            "time in terms of the first": timing.ratio(first),
            "peak MB": timing.peak_bytes / 1e6,
            "rounds": [show(seconds) for seconds in timing.seconds],
        }
        for name, timing in timings.items()
    }


def print_table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    table = Table(title=title)
    table.add_column("")
    shown = dict.fromkeys(name for row in rows.values() for name in row if name != "rounds")
    for name in shown:
        table.add_column(name, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key]:.4g}" if key in row else "" for key in shown))
    Console().print(table)


if __name__ == "__main__":
    main()
