"""A folder with photographs, a run of them and all tables and shards that are to be spoilt."""

import csv
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from imgbench.benchmark.development.hostile.values import CANARY, SECRET


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
    import torch
    from pyarrow import parquet

    from imgbench.data.corrections import Decision, add_decisions
    from imgbench.predict import predict
    from imgbench.publish.card import write_card
    from imgbench.run import Run

    for name in ("run", "other"):
        write_card(Run(home / name), home / name / "model.onnx")
    for ending in ("csv", "parquet"):
        predict(home / "run", [home / "photos"], output=home / f"answers.{ending}")
    shutil.copy2(home / "answers.csv.source.json", home / "answers.csv.whole.json")
    content = torch.load(home / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    torch.save(content["state_dict"], home / "weights.pth")
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
