"""Targets as a user writes them."""

import numpy as np
import pytest

from imgbench.compression.target import Target
from imgbench.errors import UserError
from imgbench.number import paired_difference


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("size<=2MB", Target(size=2)),
        ("latency<=10ms", Target(latency=10)),
        ("drop<=1pt", Target(drop=1)),
        ("drop<=0", Target(drop=0)),
        (" size <= 0.5 MB , drop<=1.5pt", Target(size=0.5, drop=1.5)),
        ("latency<=.5,size<=3,drop<=2", Target(size=3, latency=0.5, drop=2)),
    ],
)
def test_targets_are_read(text, target):
    assert Target.parse(text) == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        "size",
        "size<2MB",
        "size<=2ms",
        "size<=2KB",
        "speed<=2",
        "size<=-1MB",
        "size<=2,size<=3",
        "drop<=1,",
        "drop<=1%",
    ],
)
def test_what_is_no_target_is_refused_with_examples(text):
    with pytest.raises(UserError, match=r'(?s)--target .*Expected "size<=2MB", "latency<=10ms", "drop<=1pt"'):
        Target.parse(text)


def test_what_exceeds_its_bound_is_named():
    target = Target(size=2, drop=1)
    assert target.unmet(size=2.0, latency=1000, drop=100 * (0.75 - 0.74)) == []
    assert target.unmet(size=3.25, drop=1.5) == ["size 3.25 MB, above 2 MB", "drop 1.5 pt, above 1 pt"]
    assert Target().unmet(1, 1, 1) == []
    assert str(target) == "size<=2MB,drop<=1pt"


def test_accuracy_is_kept_to_by_the_whole_interval_or_that_is_said():
    """Of 31 images, no lost one tells nothing of a point; of 300 it tells that less is lost."""

    def doubt(images: int, lost: int) -> str | None:
        right = np.ones(images, bool)
        return Target(drop=1).doubt(paired_difference(np.arange(images) >= lost, right))

    assert "31 validation images are too few to tell" in str(doubt(31, 0))
    assert "one photograph is 3.2 pt" in str(doubt(31, 0))
    assert doubt(300, 0) is None
    assert "-0.7 pt" in str(doubt(300, 2))
    assert Target(size=1).doubt(paired_difference(np.zeros(31, bool), np.ones(31, bool))) is None
