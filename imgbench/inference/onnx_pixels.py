"""Resizing and cropping as the first part of an ONNX graph: what `Preprocessing.resize` does of one photograph.

ONNX's Resize of uint8 does what Pillow does: the same filter, whose weights are whole numbers, rounded after each of
two passes. Only its coordinates are float32, so that one value in 30 to 10,000 is another, by one of 255 grey levels.
In float32, without rounding between the passes, that would be every tenth, and it would take three times as long.
"""

from typing import Any

import numpy as np

from imgbench.preprocessing import LONGEST, Preprocessing

AXES = [1, 2]  # height and width of (N, height, width, 3)


def of_photographs(network: Any, preprocessing: Preprocessing) -> Any:
    """An onnx.ModelProto of `images`, uint8 (N, height, width, 3) of any size, made of one of `pixels`.

    What lies in `pixels` is an output too. Images of `stored_size` squared are not resized, only cropped.
    """
    import onnx

    first = _Nodes()
    size = preprocessing.image_size
    if preprocessing.short_side is None:
        first.resize("images", first.constant([size, size]), "pixels")
    else:
        _crop(first, preprocessing)
    helper, kinds = onnx.helper, onnx.TensorProto
    model = onnx.ModelProto()
    model.CopyFrom(network)
    graph = model.graph
    nodes = [*first.nodes, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.initializer.extend(first.constants)
    graph.input.append(helper.make_tensor_value_info("images", kinds.UINT8, ["batch", "height", "width", 3]))
    graph.output.append(helper.make_tensor_value_info("pixels", kinds.UINT8, ["batch", size, size, 3]))
    return model


def _crop(graph: "_Nodes", preprocessing: Preprocessing) -> None:
    """Nodes for the middle of a photograph whose short side gets a given size."""
    short, inner = graph.constant([preprocessing.short_side]), preprocessing.center
    sides = graph.node("Shape", "images", start=1, end=3)
    least = graph.node("ReduceMin", sides, keepdims=1)
    kept = graph.node("Min", sides, graph.node("Mul", least, graph.constant([LONGEST])))
    start = graph.node("Div", graph.node("Sub", sides, kept), graph.constant([2]))
    middle = graph.slice("images", start, graph.node("Add", start, kept))
    # Whole numbers are divided as Python truncates their quotient.
    sides = graph.node("Max", short, graph.node("Div", graph.node("Mul", short, kept), least))
    resized = graph.resize(middle, sides)
    # Halves go to the even neighbour, as Python rounds them.
    beyond = graph.node("Cast", graph.node("Sub", sides, short), to=1)
    half = graph.node("Round", graph.node("Mul", beyond, graph.constant([0.5], np.float32)))
    start = graph.node("Add", graph.node("Cast", half, to=7), graph.constant([inner.start]))
    graph.slice(resized, start, graph.node("Add", start, graph.constant([preprocessing.image_size])), "pixels")


class _Nodes:
    """Nodes and constants; each is added by its method, which returns the name of its value."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: Any, kind: Any = np.int64) -> str:
        import onnx

        name = f"preprocessing/constant_{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.array(values, kind), name))
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        import onnx

        output = output or f"preprocessing/{kind}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def slice(self, images: str, start: str, end: str, output: str = "") -> str:
        return self.node("Slice", images, start, end, self.constant(AXES), output=output)

    def resize(self, images: str, sides: str, output: str = "") -> str:
        """Bilinear with antialiasing; weights are those of pixels that there are, as Pillow's."""
        return self.node(
            "Resize", images, "", "", sides, output=output, axes=AXES, mode="linear", antialias=1, exclude_outside=1,
            coordinate_transformation_mode="half_pixel",
        )  # fmt: skip
