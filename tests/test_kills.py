"""Runs are killed for real, in each phase and by each signal; `benchmark what=[kills]` kills more of them."""

import os
import random

import pytest

from imgbench.benchmark.development.kills import RECIPE, SIGNALS, Trial, kill, kill_and_resume

PLACES = [("start-up", "SIGINT"), ("cache", "SIGKILL"), ("training", "SIGHUP"), ("checkpoint", "SIGKILL"),
          ("evaluation", "SIGTERM")]  # fmt: skip


def trial(folder) -> Trial:
    (folder / "cache").mkdir(parents=True)
    return Trial(folder, RECIPE, epochs=3)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_runs_killed_in_any_phase_go_on_and_end_to_the_bit_as_if_they_had_not_been(tmp_path):
    whole = trial(tmp_path / "whole")
    assert whole.begin().wait() == 0, whole.output
    for phase, name in PLACES:
        found = kill_and_resume(trial(tmp_path / phase), whole.run, phase, name, random.Random(0))
        assert found == {"killed": True, "lost": 0, "differing": []}, (phase, name)
    assert {name for _, name in PLACES} == set(SIGNALS)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_run_may_be_killed_as_often_as_one_likes(tmp_path):
    whole, often = trial(tmp_path / "whole"), trial(tmp_path / "often")
    assert whole.begin().wait() == 0, whole.output
    assert kill(often, often.begin(), "training", "SIGKILL", random.Random(0))
    for phase, name in [("checkpoint", "SIGTERM"), ("evaluation", "SIGKILL")]:
        kill(often, often.go_on(), phase, name, random.Random(0))
    found = kill_and_resume(often, whole.run, "start-up", "SIGKILL", random.Random(0))
    assert found["differing"] == []
