"""Mutations of files that are no text: spreadsheets, Parquet, arrays, shards, ONNX files and checkpoints."""

import contextlib
import csv
import io
import math
import os
import random
import tarfile
from typing import Any

import numpy as np

from imgbench.benchmark.development.hostile.texts import damaged, mutated, mutated_json, mutated_table
from imgbench.benchmark.development.hostile.values import Bait
from imgbench.inference.prediction_file import METADATA


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


def mutated_answers(data: bytes, bait: Bait, rng: random.Random) -> bytes:
    """A Parquet file of answers that says of itself that it is of something else, or has other columns."""
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(data))
    facts = {name: mutated_json(text.decode(), bait, rng) if name == METADATA else text
             for name, text in table.schema.metadata.items()}  # fmt: skip
    kind = rng.randrange(4)
    if kind == 0:
        table = table.drop_columns([rng.choice(table.column_names)])
    elif kind == 1:
        place = rng.randrange(len(table.column_names))
        table = table.set_column(
            place, table.column_names[place], [[rng.choice([None, 3.5, "x", b"\xff"])] * len(table)]
        )
    file = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata(facts), file)
    return damaged(file.getvalue(), rng) if kind == 2 else file.getvalue()


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
        _spoil(content["state_dict"], bait, rng)
    elif kind == 10:
        content["hyper_parameters"]["class_names"] = _Calls(str(bait.outside / "made"))
    file = io.BytesIO()
    torch.save(content, file)
    return damaged(file.getvalue(), rng) if kind == 11 else file.getvalue()


def mutated_weights(data: bytes, bait: Bait, rng: random.Random) -> bytes:
    """Weights that are others, or beside pickled code."""
    import torch

    content = torch.load(io.BytesIO(data), weights_only=True)
    kind = rng.randrange(6)
    if kind < 3:
        _spoil(content, bait, rng)
    elif kind == 3:
        content[rng.choice(["state_dict", "model", "more"])] = bait.value(rng)
    elif kind == 4:
        content["more"] = _Calls(str(bait.outside / "made"))
    file = io.BytesIO()
    torch.save(content, file)
    return damaged(file.getvalue(), rng) if kind == 5 else file.getvalue()


def _spoil(weights: dict[str, Any], bait: Bait, rng: random.Random) -> None:
    import torch

    name = rng.choice([*weights])
    weights[name] = rng.choice(
        [torch.zeros(1).expand(2**40), torch.zeros(0), torch.zeros(3, 3).to_sparse(), bait.value(rng),
         torch.full_like(weights[name], math.nan), torch.zeros(2, dtype=torch.complex64), weights[name][None]]
    )  # fmt: skip


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


def mutated_shard(data: bytes, bait: Bait, rng: random.Random) -> bytes:
    """A tar whose members have other names, classes or sizes, or are links and devices."""
    kind = rng.randrange(8)
    if kind == 7:
        return damaged(data, rng)
    file = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=file, mode="w") as new:
        members = old.getmembers()
        chosen = rng.choice(members)
        for member in members:
            stream = old.extractfile(member)
            content = stream.read() if stream else b""
            if member is chosen:
                text = bait.text(rng).encode("utf-8", "ignore").decode().replace("\0", "")
                if kind < 2:
                    member.name = rng.choice([text + ".png", "../" * 5 + member.name, str(bait.outside / "made.png")])
                elif kind == 2:
                    member.type, member.linkname = rng.choice([tarfile.SYMTYPE, tarfile.LNKTYPE]), str(bait.outside)
                elif kind == 3:
                    member.type = rng.choice(
                        [tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE]
                    )
                elif kind == 4:
                    content = rng.choice([text.encode(), b"", b"x" * 10**6])
                    member.size = len(content)
                elif kind == 5:
                    member.pax_headers = {rng.choice(["path", "size", "GNU.sparse.size", text or "x"]): text}
                else:
                    new.addfile(member, io.BytesIO(content))  # twice
            new.addfile(member, io.BytesIO(content))
    content = file.getvalue()
    if kind == 6 and rng.random() < 0.5:  # a member that says it is larger than all that follows
        place = 512 * rng.randrange(len(content) // 512)
        content = content[: place + 124] + b"77777777777\0" + content[place + 136 :]
    return content
