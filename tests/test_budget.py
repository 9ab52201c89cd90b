"""Minutes by the clock, on a machine that others use, whose clock is set and which sleeps."""

import time
from types import SimpleNamespace

import pytest

from imgbench import budget
from imgbench.budget import Budget


@pytest.fixture
def clock(monkeypatch):
    """What the clocks show, to be set: `monotonic` and `wall` in seconds, and the time of the processor."""
    now = SimpleNamespace(monotonic=100.0, wall=1e9, processor=0.0, created=1e9 - 5)
    fake = SimpleNamespace(
        monotonic=lambda: now.monotonic, time=lambda: now.wall, process_time=lambda: now.processor, sleep=time.sleep
    )
    monkeypatch.setattr(budget, "time", fake)
    monkeypatch.setattr(
        budget, "psutil", SimpleNamespace(Process=lambda: SimpleNamespace(create_time=lambda: now.created))
    )
    return now


def test_minutes_of_a_command_begin_with_its_process(clock):
    own = Budget.of_command(1)
    assert own.left == 55 and own.spent == 5


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_clock_that_is_set_takes_no_minutes_and_gives_none(clock, jump):
    clock.wall += jump  # between the start of the process and its imports
    own = Budget.of_command(1)
    assert own.left == 60
    clock.monotonic, clock.wall = clock.monotonic + 10, clock.wall - jump
    assert own.left == 50 and own.spent == 10


def test_machine_that_slept_goes_on_where_it_was(clock):
    own = Budget.from_now(1)
    clock.wall += 8 * 3600  # the monotonic clock stands still meanwhile
    assert own.left == 60


def test_what_comes_after_is_given_more_time_where_others_use_the_processor(clock):
    own = Budget.from_now(2)
    clock.monotonic, clock.processor = 120, 40  # both cores
    assert own.slowdown == 1
    assert own.before(0.1, 5).left == pytest.approx(90)
    assert own.before(0.1, 20).left == pytest.approx(80)
    clock.processor = 10
    assert own.slowdown == 2
    assert own.before(0.1, 20).left == pytest.approx(60)
    assert own.before(0.1, 1000).left == pytest.approx(50)  # training has half of it at least
    assert own.before(0.9, 1000).left == pytest.approx(10)


def test_what_was_spent_before_an_interruption_is_no_slowdown(clock):
    own = Budget.from_now(2)
    clock.monotonic, clock.processor = 110, 10
    resumed = own.but(60)
    assert resumed.spent == 70 and resumed.left == 50
    assert resumed.slowdown == 1
