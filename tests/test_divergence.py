"""A training that diverges ends with a message, and what was good before is kept."""

import pytest
import torch

from imgbench.errors import UserError
from imgbench.experiment.compose import override
from imgbench.run import Run
from imgbench.train import train
from imgbench.training.checkpoint import load_classifier


@pytest.fixture(scope="module")
def photos(tmp_path_factory, make_folder):
    return make_folder(tmp_path_factory.mktemp("photos"), {"a": 8, "b": 8})


DIVERGES = ["optimizer=sgd", "optimizer.lr=1e6", "optimizer.weight_decay=0", "trainer.max_epochs=3"]


def test_infinite_loss_names_the_step_the_learning_rate_and_what_to_lower(photos, tmp_path, fit_run):
    with pytest.raises(UserError) as error:
        fit_run(photos, tmp_path / "run", *DIVERGES, "fast.precision=32-true")
    message = str(error.value)
    assert "at a learning rate of 1e+06: the training has diverged" in message
    assert "optimizer.lr=1e+05, or limit each step, trainer.gradient_clip_val=1" in message
    assert "precision" not in message
    run = Run(tmp_path / "run")
    assert run.info["status"] == "failed"
    assert "diverged" in run.info["error"]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_low_precision_is_named_as_a_possible_reason(precision, photos, tmp_path, fit_run):
    with pytest.raises(UserError, match=f"computed in {precision}.*\n?.*fast.precision=32-true tells"):
        fit_run(photos, tmp_path / "run", *DIVERGES, f"fast.precision={precision}")


def test_last_good_checkpoint_is_kept(photos, tmp_path, fit_run):
    run = fit_run(photos, tmp_path / "run")
    content = torch.load(run.last, weights_only=True)
    for state in content["optimizer_states"][0]["state"].values():
        state["exp_avg"].fill_(torch.inf)  # so that the first step of the next epoch is infinite
    torch.save(content, run.last)
    before = run.last.read_bytes()
    with pytest.raises(UserError, match=r"is nan in step 2 of epoch 2(.|\n)*Kept: .*last\.ckpt"):
        train(override(run, [f"ckpt_path={run.last}", "trainer.max_epochs=2"]), run)
    assert run.last.read_bytes() == before
    assert all(weight.isfinite().all() for weight in load_classifier(run.best).parameters())
