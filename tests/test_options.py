"""Methods of compression refuse options that make no sense, and the command line is made from them."""

import dataclasses

import pytest

from imgbench.compress import build_methods, command_line
from imgbench.compression.options import METHODS, Distill, Prune, Quantize, Reuse
from imgbench.compression.target import Target
from imgbench.errors import UserError


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (Distill, {"temperature": 0}, "--temperature 0, but it must be above 0"),
        (Distill, {"alpha": 1.5}, "--alpha 1.5"),
        (Prune, {"amount": 0.0}, "--amount 0.0"),
        (Prune, {"amount": 0.96}, "--amount 0.96, .* at most 0.95"),
        (Prune, {"amount": float("nan")}, "--amount nan"),
        (Prune, {"amount": 1.0, "unstructured": True}, "--amount 1.0, but weights"),
        (Prune, {"steps": 0}, "--steps 0"),
        (Prune, {"steps": 2, "unstructured": True}, "--unstructured takes --amount"),
        (Prune, {"target": Target(size=1), "amount": 0.5}, "leave out --amount or --target"),
        (Quantize, {"max_drop": -1}, "--max-drop -1"),
        (Quantize, {"calibration": 31}, "--calibration 31, .* at least 32"),
    ],
)
def test_options_that_make_no_sense_are_refused(method, options, message):
    with pytest.raises(UserError, match=message):
        method(**options)


def test_every_field_of_a_method_is_an_option_with_its_help_text():
    text = " ".join(command_line().format_help().split())
    for name, method in METHODS.items():
        assert f"{name}: {' '.join(str(method.__doc__).partition('Args:')[0].split())}" in text
        for field in dataclasses.fields(method):
            assert f"--{field.name.replace('_', '-')}" in text
    assert "--alpha X weight of the teacher; that of the labels is 1 - alpha (default: 0.9) " in text
    assert "--calibration N number of training images to calibrate on (default: 200)" in text


def test_options_go_to_their_methods_as_what_they_are():
    line = "RUN distill reuse prune quantize --alpha 0.5 --target size<=2MB --steps 3 --calibration 50 --max-drop 1"
    args = vars(command_line().parse_intermixed_args(line.split()))
    names = args.pop("words")
    args = {option: value for option, value in args.items() if option not in ("run", "output")}
    distill, reuse, prune, quantize = build_methods(names, args)
    assert distill == Distill(alpha=0.5)
    assert reuse == Reuse()
    assert prune == Prune(target=Target(size=2), steps=3)
    assert quantize == Quantize(max_drop=1, calibration=50)
    assert command_line().parse_intermixed_args(["RUN", "prune", "--unstructured"]).unstructured is True
