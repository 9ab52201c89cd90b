from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate

from imgbench.errors import UserError
from imgbench.experiment.build import plain
from imgbench.experiment.compose import compose
from imgbench.models.cnn import CNN
from imgbench.models.vgg import VGG
from imgbench.run import CONF
from imgbench.training import fast
from imgbench.training.classifier import ImageClassifier
from imgbench.training.fast import FastSettings

AUTO = FastSettings(keep_heap=False)  # how the process allocates concerns all tests
VGG_CONFIG = {"_target_": "imgbench.models.vgg.VGG", "num_classes": 2, "blocks": [[8], [8]], "hidden": [8]}


@pytest.fixture
def machine(monkeypatch):
    """Pretends to have the accelerator of that name, and a CPU with the instructions named."""

    def pretend(accelerator=None, avx512_bf16=False, amx=False, amd=False, capability=(8, 0)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: accelerator == "cuda")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: accelerator == "mps")
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(fast, "_made_by_amd", lambda: amd)

    return pretend


@pytest.mark.parametrize(
    ("instructions", "precision"),
    [
        ({}, "32-true"),
        ({"avx512_bf16": True, "amd": True}, "bf16-mixed"),
        ({"avx512_bf16": True}, "32-true"),
        ({"amx": True}, "bf16-mixed"),
    ],
)
def test_automatic_precision_is_bf16_only_where_the_cpu_multiplies_it_faster(machine, instructions, precision):
    machine(**instructions)
    settings, device = fast.apply(AUTO, "auto")
    assert (settings.precision, device) == (precision, "cpu")


def test_fused_optimizer_is_left_out_where_it_unscales_gradients_too_late_for_clipping(machine):
    machine()
    fused = {precision: fast.apply(FastSettings(precision, keep_heap=False), "cpu")[0].fused_optimizer
             for precision in ("32-true", "bf16-mixed", "16-mixed")}  # fmt: skip
    assert fused == {"32-true": True, "bf16-mixed": True, "16-mixed": False}


@pytest.mark.parametrize(
    ("device", "capability", "native"),
    [("cuda", (8, 0), True), ("cuda", (7, 5), False), ("mps", (9, 0), False)],
)
def test_bf16_is_native_from_ampere_on_and_not_on_mps(machine, device, capability, native):
    machine(device, capability=capability)
    assert fast.multiplies_bf16(device) is native


@pytest.mark.parametrize(
    ("accelerator", "present", "device"),
    [("auto", None, "cpu"), ("auto", "cuda", "cuda"), ("gpu", "mps", "mps"), ("cpu", "cuda", "cpu")],
)
def test_device_is_the_best_that_is_there_unless_another_is_asked_for(machine, accelerator, present, device):
    machine(present)
    assert fast.device_name(accelerator) == device


@pytest.mark.parametrize("accelerator", ["tpu", "gpu", "cuda", "mps"])
def test_an_accelerator_that_is_not_there_is_refused(machine, accelerator):
    machine()
    with pytest.raises(UserError, match=f"trainer.accelerator={accelerator}.*use auto or cpu"):
        fast.apply(AUTO, accelerator)


def test_stated_settings_are_kept(machine):
    machine(amx=True)
    threads = torch.get_num_threads()
    try:
        stated = FastSettings("64-true", channels_last=False, fused_optimizer=False, keep_heap=False, threads=1)
        assert fast.apply(stated, "cpu") == (stated, "cpu")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


def test_a_job_has_no_more_threads_than_its_control_group_gives_it_cores(machine, monkeypatch):
    machine()
    monkeypatch.setattr(fast, "core_quota", lambda: 1)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert fast.apply(AUTO, "cpu")[0].threads == 1
        torch.set_num_threads(2)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")  # what the user has set stays
        assert fast.apply(AUTO, "cpu")[0].threads == 2
    finally:
        torch.set_num_threads(threads)


def test_an_unknown_precision_is_refused_with_the_choices():
    with pytest.raises(UserError, match=r"fast.precision='bf17'.*auto, 32-true, bf16-mixed"):
        fast.apply(FastSettings("bf17", keep_heap=False), "cpu")


def test_the_heap_is_kept_only_where_the_allocator_is_glibcs(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert fast.apply(FastSettings(), "cpu")[0].keep_heap is False


@pytest.mark.parametrize("channels_last", [True, False])
def test_prepare_lays_out_the_weights_as_asked(channels_last):
    module = ImageClassifier(VGG_CONFIG, ["a", "b"], {"mean": [0.0] * 3, "std": [1.0] * 3})
    fast.prepare(module, FastSettings(channels_last=channels_last))
    weights = [p for p in module.model.parameters() if p.dim() == 4]
    assert weights
    assert all(w.is_contiguous(memory_format=torch.channels_last) is channels_last for w in weights)


def test_prepare_compiles_only_if_asked():
    for asked in (False, True):
        module = ImageClassifier(VGG_CONFIG, ["a", "b"], {"mean": [0.0] * 3, "std": [1.0] * 3})
        fast.prepare(module, FastSettings(channels_last=False, compile=asked))
        assert (module.model._compiled_call_impl is not None) is asked


@pytest.fixture(params=["cnn", "vgg"])
def model(request):
    torch.manual_seed(0)
    vgg = VGG(5, blocks=[[16, 16], [32]], hidden=[32], batch_norm=True)
    return (CNN(5, image_size=32) if request.param == "cnn" else vgg).eval()


def test_channels_last_computes_the_same(model):
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
        fast.prepare(SimpleNamespace(model=model), FastSettings(channels_last=True))  # type: ignore[arg-type]
        output = model(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)


def test_channels_last_gradients_are_the_same_and_keep_the_layout(model):
    images, kept = torch.rand(4, 3, 32, 32), []

    def gradients(layout):
        model.zero_grad()
        model.to(memory_format=layout)
        watch = model.features.register_full_backward_pre_hook(
            lambda module, outputs: kept.append(outputs[0].is_contiguous(memory_format=layout))
        )
        model(images.to(memory_format=layout)).square().sum().backward()
        watch.remove()
        return [parameter.grad.clone() for parameter in model.parameters()]

    expected = gradients(torch.contiguous_format)
    torch.testing.assert_close(gradients(torch.channels_last), expected, rtol=1e-4, atol=1e-5)
    assert kept == [True, True]


def test_bf16_computes_nearly_the_same(model):
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(images)
    assert output.dtype == torch.bfloat16
    # Eight significant bits are 0.4 %; a few layers add up to at most 2 % of the largest logit.
    assert (output - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml")))
def test_every_optimizer_config_has_a_fused_kernel_that_computes_the_same(name):
    config = plain(compose([f"optimizer={name}", "optimizer.lr=1e-3"]).optimizer)
    assert fast.supports_fused(config["_target_"])
    results = []
    for fused in (True, False):
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 50))
        optimizer = instantiate(config, params=[parameter], fused=fused, _convert_="all")
        for _ in range(3):
            optimizer.zero_grad()
            parameter.square().sum().backward()
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results)


def test_other_optimizers_are_not_fused():
    assert not fast.supports_fused("torch.optim.RMSprop")


def test_predictions_on_cuda_have_all_digits_of_float32_and_training_has_its_own_again():
    def digits():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = digits()
    torch.set_float32_matmul_precision("high")
    try:
        training = digits()
        with fast.full_precision("cuda"):
            assert digits() == ("highest", False)
        assert digits() == training
    finally:
        torch.set_float32_matmul_precision(before[0])
