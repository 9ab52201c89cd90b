"""Damaged files of every format are decoded or named; `python -m imgbench.benchmark what=[fuzz]` tries 10,000."""

import pytest
from commands import STARTER

from imgbench.benchmark import rounds
from imgbench.benchmark.development.fuzz import KINDS, damaged_files, measure_fuzz, whole_file
from imgbench.decode import FORMATS, image_format
from imgbench.errors import DecodeError
from imgbench.preprocessing import Preprocessing


def test_there_is_a_whole_file_of_every_format():
    found = {image_format(whole_file(kind)) for kind in KINDS}
    assert found | {"HEIC"} == set(FORMATS)
    assert all(Preprocessing(32).decode(whole_file(kind)).shape == (32, 32, 3) for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_decoded_or_named(kind):
    for data in damaged_files(kind, 30):
        try:
            assert Preprocessing(32).decode(data).shape == (32, 32, 3)
        except DecodeError as error:
            assert str(error)


def test_each_file_is_counted_once(monkeypatch):
    monkeypatch.setattr(rounds, "PROCESSES", STARTER)  # copies of one that has imported much
    rows = measure_fuzz(3 * len(KINDS))
    assert all(row["decoded"] + row["named"] == 3 and row["others"] == 0 and row["value"] == 1 for row in rows.values())
