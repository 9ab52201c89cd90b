"""A run is killed for real, in each phase and by each signal; `benchmark what=[kills]` kills more of them."""

import os
import random

import pytest

from imgbench.benchmark.development.kills import (
    RECIPE,
    SIGNALS,
    Trial,
    differences,
    epochs_kept,
    epochs_lost,
    kill,
)

# Many short epochs, so that each kill meets one.
WORDS = (*RECIPE, "+trainer.limit_train_batches=4", "+trainer.limit_val_batches=1")
PLACES = [("start-up", "SIGINT"), ("cache", "SIGKILL"), ("training", "SIGHUP"), ("checkpoint", "SIGKILL"),
          ("evaluation", "SIGTERM")]  # fmt: skip
SOON = 18  # a seed by which it is killed in an early epoch, and early in a phase


def trial(folder) -> Trial:
    (folder / "cache").mkdir(parents=True)
    return Trial(folder, WORDS, epochs=12)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_run_killed_in_one_phase_after_another_ends_to_the_bit_as_if_it_had_not_been(tmp_path):
    whole, killed = trial(tmp_path / "whole"), trial(tmp_path / "killed")
    assert whole.begin().wait() == 0, whole.output
    kept = said = 0
    for phase, name in PLACES:
        assert kill(killed, killed.go_on(), phase, name, random.Random(SOON)), phase
        assert epochs_lost(kept, killed.output[said:]) == 0, phase
        kept, said = epochs_kept(killed.run), len(killed.output)
    assert kept == killed.epochs
    assert killed.go_on().wait() == 0, killed.output
    assert "\nepoch " not in killed.output[said:]
    assert differences(killed, whole.run) == []
    assert {name for _, name in PLACES} == set(SIGNALS)
