"""How far a longer step has come: a bar in a terminal, and lines elsewhere."""

import gc
import logging
import re
import sys
from threading import Event
from types import ModuleType

import pytest

from imgbench import progress
from imgbench.progress import Step, loading, shown


def test_without_a_terminal_a_long_step_says_how_far_it_has_come(monkeypatch, caplog, capsys):
    monkeypatch.setattr(progress, "SILENCE", 0.001)
    monkeypatch.setattr(progress, "LONGEST", 0.001)
    said, lines = Event(), []

    class Handler(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())
            said.set()

    monkeypatch.setattr(progress.log, "handlers", [Handler()])
    caplog.set_level(logging.INFO, progress.log.name)
    with Step("Decoding images", 2000) as step:
        step.advance(1000, more=500)
        said.clear()
        assert said.wait(60)
    assert lines[-1] == "Decoding images: 1,000 of 2,500"
    said.clear()
    with Step("Writing the report"):
        assert said.wait(60)
    assert lines[-1] == "Writing the report: ..."
    assert "━" not in "".join(capsys.readouterr())


def test_a_short_step_says_nothing_without_a_terminal(caplog, capsys):
    caplog.set_level(logging.INFO)
    assert list(shown(range(3), 3, "Counting")) == [0, 1, 2]
    assert (caplog.text, *capsys.readouterr()) == ("", "", "")


def test_a_bar_says_what_it_is_about_and_fits_a_terminal(monkeypatch, capsys):
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    text = "Comparing {pairs} of [images] in 35"
    assert len(text) == 35
    with Step(text, 1_000_000, 999_998) as step:
        step.advance()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", shown)]
    assert any(text in line and "999999/1000000" in line for line in lines)
    assert max(map(len, lines)) <= 80
    assert all(text in line for line in lines if line), "a bar is one line"


def test_that_pytorch_is_imported_is_said_on_a_terminal_alone(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with loading():
        pass
    assert capsys.readouterr() == ("", "")
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    with loading():
        pass
    assert "Loading PyTorch" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    with loading():
        pass
    assert capsys.readouterr() == ("", "")


def test_no_garbage_is_looked_for_while_pytorch_is_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    with loading():
        assert gc.isenabled()  # it was imported before
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(ImportError), loading():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    with loading():
        pass
    assert not gc.isenabled(), "as the caller had it"
    gc.enable()
