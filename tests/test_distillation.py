"""A student learns from a teacher, and keeps nothing of it."""

import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import imgbench
from imgbench.data.augment import Augment
from imgbench.errors import UserError
from imgbench.experiment.compose import compose, override, quoted
from imgbench.run import Run
from imgbench.train import train
from imgbench.training.checkpoint import load_classifier
from imgbench.training.distillation import DistilledClassifier, Teacher, load_teacher, soft_loss


def student(teacher, class_names=("cat", "dog"), **options):
    classifier = load_classifier(teacher)
    options = {"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1}, **options}
    return DistilledClassifier(
        teacher=str(teacher),
        class_names=list(class_names),
        model={"_target_": "imgbench.models.compact.CompactCNN", "num_classes": len(class_names), "widths": [[4]]},
        preprocessing=classifier.hparams["preprocessing"],
        **options,
    )


@pytest.fixture
def count_teacher(monkeypatch):
    """How many images the teacher has seen, call by call."""
    seen = []
    answer = Teacher.logits

    def logits(self, images):
        seen.append(len(images))
        return answer(self, images)

    monkeypatch.setattr(Teacher, "logits", logits)
    return seen


def test_soft_loss_is_the_divergence_of_the_softened_probabilities():
    # Teacher 2 * log 3 at temperature 2: probabilities 3/4 and 1/4; the student's are 1/2 and 1/2.
    teacher, pupil = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert soft_loss(pupil, teacher, 2.0).item() == pytest.approx(4 * divergence, rel=1e-5)
    assert soft_loss(teacher, teacher, 2.0).item() == pytest.approx(0, abs=1e-7)


def test_gradient_of_the_soft_loss_keeps_its_scale_at_high_temperatures():
    # Hinton et al. 2015, eq. 4: at high temperatures it tends to the difference of the centred logits over N.
    torch.manual_seed(0)
    teacher, pupil = torch.randn(1, 5), torch.randn(1, 5, requires_grad=True)
    gradients = []
    for temperature in (1.0, 20.0, 200.0):
        (gradient,) = torch.autograd.grad(soft_loss(pupil, teacher, temperature), pupil)
        gradients.append(gradient)
    difference = pupil.detach() - teacher
    torch.testing.assert_close(gradients[2], (difference - difference.mean()) / 5, rtol=0.05, atol=2e-3)
    assert 0.2 < (gradients[1].norm() / gradients[0].norm()).item() < 5


@pytest.mark.parametrize("mixed", [False, True])
def test_without_weight_the_loss_is_cross_entropy(tiny_run, count_teacher, mixed):
    module = student(tiny_run.best, alpha=0.0)
    images, logits = torch.rand(3, 3, 20, 20), torch.randn(3, 2)
    targets = torch.tensor([[0.3, 0.7], [1, 0], [0.5, 0.5]]) if mixed else torch.tensor([0, 1, 1])
    assert torch.equal(module.training_loss(images, logits, targets), F.cross_entropy(logits, targets))
    assert not count_teacher


def test_loss_weighs_teacher_and_labels(tiny_run):
    module = student(tiny_run.best, alpha=0.25, temperature=3.0)
    images, logits = torch.rand(3, 3, 20, 20), torch.randn(3, 2)
    targets = torch.tensor([[0.3, 0.7], [1, 0], [0.5, 0.5]])  # as MixUp gives them
    with torch.no_grad():
        teacher = load_classifier(tiny_run.best).eval()(images)
    expected = 0.25 * soft_loss(logits, teacher, 3.0) + 0.75 * F.cross_entropy(logits, targets)
    torch.testing.assert_close(module.training_loss(images, logits, targets), expected)


def test_teacher_is_neither_trained_nor_saved(tiny_run):
    module = student(tiny_run.best)
    own = {id(parameter) for parameter in module.model.parameters()}
    assert {id(parameter) for parameter in module.parameters()} == own
    assert all(name.startswith("model.") for name in module.state_dict() if "acc" not in name)
    module.train()
    assert not module.teacher.classifier.training
    assert not module.teacher.logits(torch.rand(1, 3, 20, 20)).requires_grad


def test_teacher_sees_images_at_its_own_size(tiny_run):
    teacher = load_teacher(tiny_run.path)
    flat = torch.full((1, 3, 31, 31), 0.25)
    torch.testing.assert_close(teacher.logits(flat), teacher.logits(flat[:, :, :20, :20]))


@pytest.mark.parametrize(("augment", "epochs_shown"), [("none", 1), ("light", 2)])
def test_teacher_sees_each_image_once_unless_it_is_augmented(
    tiny_run, fit_run, tmp_path, count_teacher, augment, epochs_shown
):
    words = ["objective=distill", quoted(f"objective.teacher={tiny_run.path}"), "model=compact"]
    root = tiny_run.config["data"]["root"]
    run = fit_run(root, tmp_path / "run", *words, f"augment={augment}", "trainer.max_epochs=2")
    assert sum(count_teacher) == epochs_shown * len(run.split_rows("train"))


@pytest.mark.parametrize(
    ("options", "identity"),
    [({}, True), ({"flip": 0.5}, False), ({"scale": (0.5, 1)}, False), ({"mix": True}, False),
     ({"policy": "randaugment"}, False), ({"shift": 0.1}, False), ({"quarter_turns": True}, False),
     ({"color": 0.1}, False), ({"scale": (0.5, 1), "crop": 0.0}, True)],
)  # fmt: skip
def test_only_the_identity_repeats_its_images(options, identity):
    assert Augment(**options).is_identity is identity


def test_student_is_an_ordinary_classifier_without_its_teacher(tiny_run, fit_run, tmp_path):
    teacher = tmp_path / "teacher a=b"
    shutil.copytree(tiny_run.path, teacher)
    words = ["objective=distill", quoted(f"objective.teacher={teacher}"), "model=compact"]
    run = fit_run(tiny_run.config["data"]["root"], tmp_path / "run", *words, "data.image_size=16")
    shutil.rmtree(teacher)
    hparams = torch.load(run.best, weights_only=True)["hyper_parameters"]
    assert not {"teacher", "temperature", "alpha"} & set(hparams)
    assert hparams["provenance"]["teacher"] == run.info["provenance"]["teacher"]
    assert run.info["provenance"]["teacher"]["path"] == str(teacher / "checkpoints" / "best.ckpt")
    assert len(run.info["provenance"]["teacher"]["sha256"]) == 64
    assert set(imgbench.load(run.path).class_names) == {"cat", "dog"}
    assert run.config["objective"]["teacher"] == str(teacher)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["dog", "cat"]}, r"knows the classes \['cat', 'dog'\].*\['dog', 'cat'\].*same order"),
        ({"class_names": ["cat", "dog", "eel"]}, "same classes"),
        ({"alpha": 1.5}, "objective.alpha=1.5"),
        ({"temperature": 0}, "objective.temperature=0"),
    ],
)
def test_what_cannot_be_learned_is_refused(tiny_run, options, message):
    with pytest.raises(UserError, match=message):
        student(tiny_run.best, **options)


@pytest.mark.parametrize("path", ["nowhere", "photos"])
def test_missing_teacher_is_named(path, tmp_path):
    with pytest.raises(UserError, match=path):
        load_teacher(tmp_path / path)


def test_unset_teacher_says_how_to_set_it(tiny_run, train_run, tmp_path):
    assert compose(["objective=distill"]).objective.teacher is None
    with pytest.raises(UserError, match=r"objective\.teacher=RUN"):
        train_run(tiny_run.config["data"]["root"], tmp_path / "run", "objective=distill")


@pytest.fixture
def distil(tiny_run, tmp_path, count_teacher):
    """Trains a student of `tiny_run` with augmentation, and returns how many images its teacher saw."""

    def run(*words: str) -> int:
        config = override(tiny_run, ["objective=distill", "augment=turn", "trainer.max_epochs=5", *words])
        config.objective.teacher = str(tiny_run.best)
        train(config, Run(tmp_path / "student"))
        return sum(count_teacher)

    return run


def test_teacher_sees_each_augmented_view_once(distil, tiny_run):
    images = len(tiny_run.split_rows("train"))
    assert distil("objective.views=2") == 2 * images


def test_teacher_sees_every_epoch_where_views_do_not_return(distil, tiny_run):
    images = len(tiny_run.split_rows("train"))
    assert distil("objective.views=null") == 5 * images


def test_student_learns_from_images_without_labels_but_not_from_those_it_is_tested_on(
    distil, tiny_run, tmp_path, caplog
):
    folder = tmp_path / "unlabelled" / "deep"
    folder.mkdir(parents=True)
    root = tiny_run.path.parent / "photos"
    tested = tiny_run.split_rows("test")[0]["path"]
    shutil.copy(root / tested, folder / "tested.png")
    for number in range(3):
        Image.new("RGB", (24, 24), (50 * number, 90, 90)).save(folder / f"{number}.png")
    images = len(tiny_run.split_rows("train"))
    assert distil("objective.views=1", f"data.unlabelled={folder.parent}") == images + 3
    assert "1 of 4 unlabelled images are left out" in caplog.text


def test_images_without_labels_are_refused_where_there_is_no_teacher(tmp_path):
    config = compose(["data.unlabelled=elsewhere"])
    with pytest.raises(UserError, match=r"data.unlabelled=elsewhere: images without labels.*objective=distill"):
        train(config, Run(tmp_path / "run"))
