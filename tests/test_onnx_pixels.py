"""The graph's resizing, cropping and padding beside Pillow's."""

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from imgbench.inference.onnx_file import OPSET
from imgbench.inference.onnx_pixels import of_photographs
from imgbench.preprocessing import LONGEST, Preprocessing

SHAPES = [(1, 1), (1, 40), (300, 1), (1, 5000), (5000, 2), (7, 9), (20, 20), (31, 31), (20, 31), (33, 32), (41, 50),
          (50, 41), (200, 300), (301, 200), (601, 1200)]  # fmt: skip
PREPROCESSINGS = [Preprocessing(20), Preprocessing(20, "crop"), Preprocessing(20, 31), Preprocessing(21, 30),
                  Preprocessing(20, "pad"), Preprocessing(21, "pad", padding=9)]  # fmt: skip


def session_of(preprocessing: Preprocessing) -> onnxruntime.InferenceSession:
    """Of a network that only turns pixels into floats."""
    helper, kinds = onnx.helper, onnx.TensorProto
    shape = ["batch", preprocessing.image_size, preprocessing.image_size, 3]
    graph = helper.make_graph(
        [helper.make_node("Cast", ["pixels"], ["floats"], to=kinds.FLOAT)],
        "network",
        [helper.make_tensor_value_info("pixels", kinds.UINT8, shape)],
        [helper.make_tensor_value_info("floats", kinds.FLOAT, shape)],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    model = of_photographs(network, preprocessing)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS, ids=lambda one: f"{one.resize} to {one.image_size}")
def test_graph_gives_the_network_the_pixels_that_pillow_gives(preprocessing):
    session, rng, inner = session_of(preprocessing), np.random.default_rng(0), preprocessing.center
    differing = []
    for height, width in SHAPES:
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        wanted = preprocessing.decode(Image.fromarray(image))[inner, inner]
        floats, found = map(np.asarray, session.run(None, {"images": image[None]}))
        assert np.array_equal(floats, found)
        difference = np.abs(found[0].astype(int) - wanted)
        assert difference.max() <= 1, (height, width)
        differing.append((difference > 0).mean())
    assert np.mean(differing) < 0.006


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS, ids=lambda one: f"{one.resize} to {one.image_size}")
def test_what_was_resized_before_passes_unchanged(preprocessing):
    size, inner = preprocessing.stored_size, preprocessing.center
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    _, found = session_of(preprocessing).run(None, {"images": images})
    assert np.array_equal(np.asarray(found), images[:, inner, inner])


def test_a_long_picture_is_seen_in_its_middle_and_takes_little_memory(monkeypatch):
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *rest: sizes.append(size) or resize(self, size, *rest)
    )
    image = np.zeros((10_000, 1, 3), np.uint8)
    image[4_995:5_005] = 200
    pixels = Preprocessing(20, 31).decode(Image.fromarray(image))
    assert sizes == [(31, 31 * LONGEST)]
    assert (pixels == 200).all()
