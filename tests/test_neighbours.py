"""How many threads train beside other programs."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from imgbench.training import neighbours as module
from imgbench.training.neighbours import Neighbours, Used


@pytest.fixture
def steps(monkeypatch):
    """Trains with two threads so many steps, each of which takes as long as `seconds` says of the threads, while other
    programs use some cores; returns the numbers of threads of these steps."""
    now, others_used, own = 0.0, 0.0, 0.0
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    monkeypatch.setattr(Used, "so_far", staticmethod(lambda: Used(now, others_used + own, own)))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    callback = Neighbours()
    cpu = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), world_size=1)
    trainer, network = cast(Any, cpu), cast(Any, None)
    callback.on_train_start(trainer, network)

    def steps(number, cores, seconds):
        nonlocal now, others_used, own
        threads = []
        for _ in range(number):
            callback.on_train_batch_start(trainer, network, None, 0)
            threads.append(torch.get_num_threads())
            took = seconds[threads[-1]]
            now, own, others_used = now + took, own + took, others_used + took * cores
            callback.on_train_batch_end(trainer, network, None, None, 0)
        return threads

    yield steps
    callback.teardown(trainer, network, "fit")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_idle_nothing_is_tried(steps):
    assert set(steps(100, cores=0.1, seconds={2: 1.0})) == {2}


def test_beside_a_busy_program_the_fastest_number_is_taken_until_it_ends(steps, caplog):
    caplog.set_level("INFO")
    assert steps(30, cores=1, seconds={2: 5.0, 1: 2.0})[-10:] == [1] * 10
    assert "Other programs use 1.0 cores, and steps with 2 threads took 2.5 times as long" in caplog.text
    assert steps(20, cores=0, seconds={2: 1.0, 1: 2.0})[-1] == 2
    assert steps(30, cores=1, seconds={2: 5.0, 1: 2.0})[-1] == 1


def test_all_threads_go_on_where_fewer_are_hardly_faster(steps):
    assert steps(30, cores=1, seconds={2: 2.1, 1: 2.0})[-10:] == [2] * 10


def test_a_number_that_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    callback = Neighbours()
    cpu = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), world_size=1)
    callback.on_train_start(cast(Any, cpu), cast(Any, None))
    monkeypatch.setattr(module.time, "monotonic", lambda: 1e9)
    callback.on_train_batch_end(cast(Any, cpu), cast(Any, None), None, None, 0)  # it does not even look
    assert not callback._waiting
