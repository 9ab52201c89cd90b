"""Mutations of YAML, JSON, JSON lines and CSV: an entry changed, removed, added, renamed, or other bytes."""

import csv
import io
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import yaml

from imgbench.benchmark.development.fuzz import DAMAGE
from imgbench.benchmark.development.hostile.values import NUMBERS, Bait


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all entries of nested dictionaries and lists."""
    items: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from places(value, (*at, key))


def mutated(tree: Any, bait: Bait, rng: random.Random) -> Any:
    """A tree with one to three entries changed, removed, added or exchanged; or something else altogether."""
    tree = _copied(tree)
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


def mutated_card(text: str, bait: Bait, rng: random.Random) -> bytes:
    """A model card with other lines of YAML at its beginning."""
    _, yaml_lines, rest = text.split("---\n", 2)
    return b"---\n" + mutated_yaml(yaml_lines, bait, rng) + b"---\n" + rest.encode()


def mutated_lines(text: str, bait: Bait, rng: random.Random) -> bytes:
    """JSON lines."""
    rows = [*csv.DictReader(io.StringIO(text))]
    rows = mutated(rows, bait, rng)
    lines = [json.dumps(row) for row in rows] if isinstance(rows, list) else [json.dumps(rows)]
    data = ("\n".join(lines) + rng.choice(["", "\n", "\n[]", "\n{", "\n" + "[" * 50_000])).encode()
    return damaged(data, rng) if rng.random() < 0.15 else data
