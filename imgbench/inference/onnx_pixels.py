"""Resizing, cropping and padding as the first part of an ONNX graph: what `Preprocessing.square` does of a photograph.

Up to `EXACT` pixels, the nodes compute what Pillow computes: weights of whole numbers, one pass across and one down,
rounded after each. ONNX's own Resize of uint8 does so too, but its coordinates are float32, so that of one value in 30
to 10,000 a half is rounded to the other side. That changes probabilities by up to 0.004. It is several times as fast on
large photographs, of which each pixel is an average of many and hardly any value is another.
"""

from typing import Any

import numpy as np

from imgbench.preprocessing import LONGEST, Preprocessing

PREFIX = "preprocessing/"
ROWS, COLUMNS = 1, 2  # axes of (N, height, width, 3)
EXACT = 1_000_000  # pixels
PRECISION = 22  # bits of Pillow's weights
FLOAT, UINT8, INT32, INT64, BOOL, DOUBLE = 1, 2, 6, 7, 9, 11  # what ONNX calls them


def of_photographs(network: Any, preprocessing: Preprocessing) -> Any:
    """An onnx.ModelProto of `images`, uint8 (N, height, width, 3) of any size, made of one of `pixels`.

    What lies in `pixels` is an output too. Images of `stored_size` squared are not resized, only cropped.
    """
    import onnx

    first = Nodes(PREFIX)
    size = preprocessing.image_size
    if preprocessing.resize == "stretch":
        _resize(first, "images", first.constant([size, size]), "pixels")
    elif preprocessing.resize == "pad":
        _pad(first, preprocessing)
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


def resize_exactly(model: Any) -> None:
    """Lets an onnx.ModelProto of `images` take the nodes that compute what Pillow does for photographs of any size."""
    import onnx

    for one in model.graph.initializer:
        if one.name.startswith(PREFIX) and onnx.numpy_helper.to_array(one).tolist() == EXACT:
            one.CopyFrom(onnx.numpy_helper.from_array(np.array(np.iinfo(np.int64).max), one.name))


class Nodes:
    """Nodes and constants, whose names begin so; each is added by a method that returns the name of its value."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: Any, kind: Any = np.int64) -> str:
        import onnx

        name = f"{self.prefix}constant_{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.array(values, kind), name))
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        import onnx

        output = output or f"{self.prefix}{kind}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def cast(self, value: str, kind: int) -> str:
        return self.node("Cast", value, to=kind)

    def graph(self, outputs: dict[str, int], inputs: dict[str, int] | None = None) -> Any:
        """What a branch or a loop computes of further inputs: single values, and images; each with its type."""
        import onnx

        def known(values: dict[str, int]) -> list[Any]:
            shapes = {BOOL: [], INT64: [], UINT8: [None] * 4, INT32: [None] * 4}
            return [onnx.helper.make_tensor_value_info(name, kind, shapes[kind]) for name, kind in values.items()]

        name = self.prefix.strip("/")
        return onnx.helper.make_graph(self.nodes, name, known(inputs or {}), known(outputs), self.constants)


def _crop(graph: Nodes, preprocessing: Preprocessing) -> None:
    """Nodes for the middle of a photograph whose short side gets a given size."""
    short, inner = graph.constant([preprocessing.stored_size]), preprocessing.center
    sides = graph.node("Shape", "images", start=ROWS, end=COLUMNS + 1)
    least = graph.node("ReduceMin", sides, keepdims=1)
    kept = graph.node("Min", sides, graph.node("Mul", least, graph.constant([LONGEST])))
    start = graph.node("Div", graph.node("Sub", sides, kept), graph.constant([2]))
    axes = graph.constant([ROWS, COLUMNS])
    middle = graph.node("Slice", "images", start, graph.node("Add", start, kept), axes)
    # Whole numbers are divided as Python truncates their quotient.
    sides = graph.node("Max", short, graph.node("Div", graph.node("Mul", short, kept), least))
    resized = _resize(graph, middle, sides)
    # Halves go to the even neighbour, as Python rounds them.
    beyond = graph.cast(graph.node("Sub", sides, short), DOUBLE)
    half = graph.node("Round", graph.node("Mul", beyond, graph.constant([0.5], np.float64)))
    start = graph.node("Add", graph.cast(half, INT64), graph.constant([inner.start]))
    end = graph.node("Add", start, graph.constant([preprocessing.image_size]))
    graph.node("Slice", resized, start, end, axes, output="pixels")


def _pad(graph: Nodes, preprocessing: Preprocessing) -> None:
    """Nodes for a whole photograph, whose long side gets a given size, and grey beside it."""
    size, one, two = (graph.constant([number]) for number in (preprocessing.image_size, 1, 2))
    sides = graph.node("Shape", "images", start=ROWS, end=COLUMNS + 1)
    longest = graph.node("ReduceMax", sides, keepdims=1)
    twice = graph.node("Div", graph.node("Mul", graph.constant([2 * preprocessing.image_size]), sides), longest)
    sides = graph.node("Max", one, graph.node("Div", graph.node("Add", twice, one), two))
    resized = _resize(graph, "images", sides)
    missing = graph.node("Sub", size, sides)
    before = graph.node("Div", missing, two)
    ends = graph.node("Concat", before, graph.node("Sub", missing, before), axis=0)
    grey, axes = graph.constant(preprocessing.padding, np.uint8), graph.constant([ROWS, COLUMNS])
    graph.node("Pad", resized, ends, grey, axes, output="pixels")


def _resize(graph: Nodes, images: str, sides: str, output: str = "") -> str:
    """Nodes that give images the sides (height, width), bilinear with antialiasing."""
    before = graph.node("Shape", images, start=ROWS, end=COLUMNS + 1)
    small = graph.node("LessOrEqual", graph.node("ReduceProd", before, keepdims=0), graph.constant(EXACT))
    differ = graph.cast(graph.node("ReduceMax", graph.node("Abs", graph.node("Sub", before, sides)), keepdims=0), BOOL)

    exact = Nodes(f"{graph.prefix}exact/")
    columns = exact.node("Transpose", images, perm=[2, 0, 1, 3])  # (width, N, height, 3)
    columns = _resize_first(exact, columns, exact.node("Gather", sides, exact.constant(1)))
    rows = exact.node("Transpose", columns, perm=[2, 1, 0, 3])  # (height, N, width, 3)
    rows = _resize_first(exact, rows, exact.node("Gather", sides, exact.constant(0)))
    exactly = exact.graph({exact.node("Transpose", rows, perm=[1, 0, 2, 3]): UINT8})
    fast = Nodes(f"{graph.prefix}fast/")
    # The weights are those of pixels that there are, as Pillow's.
    resized = fast.node(
        "Resize", images, "", "", sides, axes=[ROWS, COLUMNS], mode="linear", antialias=1, exclude_outside=1,
        coordinate_transformation_mode="half_pixel",
    )  # fmt: skip
    quickly = fast.graph({resized: UINT8})
    condition = graph.node("And", small, differ)
    return graph.node("If", condition, output=output, then_branch=exactly, else_branch=quickly)


def _resize_first(graph: Nodes, images: str, after: str) -> str:
    """Nodes for one of Pillow's two passes (libImaging/Resample.c): the first axis gets a size; the result is uint8.

    All is computed in whole numbers, places in parts of half a pixel. OpenVINO has no float64, and with float32 some
    values would be rounded to the other side.
    """

    def scalar(value: float, kind: Any = np.int64) -> str:
        return graph.constant(value, kind)

    zero, one, two = scalar(0), scalar(1), scalar(2)
    shape = graph.node("Shape", images)
    before = graph.node("Gather", shape, zero)
    support = graph.node("Mul", two, graph.node("Max", before, after))
    odd = graph.node("Add", graph.node("Mul", two, graph.node("Range", zero, after, one)), one)
    centers = graph.node("Mul", odd, before)  # (after,)
    middle, unit = graph.node("Add", centers, after), graph.node("Mul", two, after)
    first = graph.node("Max", graph.node("Div", graph.node("Sub", middle, support), unit), zero)
    end = graph.node("Min", graph.node("Div", graph.node("Add", middle, support), unit), before)
    number = graph.node("ReduceMax", graph.node("Sub", end, first), keepdims=0)  # of pixels that one is made of
    taps = graph.node("Range", zero, number, one)
    taps = graph.node("Add", graph.node("Unsqueeze", taps, graph.constant([1])), first)  # (number, after)
    places = graph.node("Mul", graph.node("Add", graph.node("Mul", two, taps), one), after)
    distances = graph.node("Abs", graph.node("Sub", places, centers))
    weights = graph.node("Max", graph.node("Sub", support, distances), zero)
    weights = graph.node("Mul", weights, graph.cast(graph.node("Less", taps, before), INT64))
    total = graph.node("ReduceSum", weights, graph.constant([0]))
    share = graph.node("Div", graph.cast(weights, FLOAT), graph.cast(total, FLOAT))
    whole = graph.node("Mul", share, scalar(2**PRECISION, np.float32))
    whole = graph.cast(
        graph.node("Floor", graph.node("Add", whole, scalar(0.5, np.float32))), INT64
    )  # or one beside it
    rest = graph.node("Sub", graph.node("Mul", weights, scalar(2**PRECISION)), graph.node("Mul", whole, total))
    rest = graph.node("Mul", two, rest)  # small; OpenVINO's 32 bits may overflow on the way there, and back
    more = graph.cast(graph.node("GreaterOrEqual", rest, total), INT64)
    less = graph.cast(graph.node("Less", rest, graph.node("Neg", total)), INT64)
    weights = graph.cast(graph.node("Sub", graph.node("Add", whole, more), less), INT32)
    weights = graph.node("Unsqueeze", weights, graph.constant([2, 3, 4]))
    taps = graph.node("Min", taps, graph.node("Sub", before, one))

    body = Nodes(f"{graph.prefix}loop_{len(graph.nodes)}/")
    step, go_on, so_far = (f"{body.prefix}{name}" for name in ("step", "go_on", "so_far"))
    pixels = body.cast(body.node("Gather", images, body.node("Gather", taps, step)), INT32)
    added = body.node("Add", so_far, body.node("Mul", pixels, body.node("Gather", weights, step)))
    outputs = {body.node("Identity", go_on): BOOL, added: INT32}
    added_up = body.graph(outputs, {step: INT64, go_on: BOOL, so_far: INT32})
    others = graph.node("Slice", shape, graph.constant([1]), graph.constant([4]))
    shape = graph.node("Concat", graph.node("Unsqueeze", after, graph.constant([0])), others, axis=0)
    start = graph.node("Expand", scalar(2 ** (PRECISION - 1), np.int32), shape)
    found = graph.node("Loop", number, "", start, body=added_up)
    unit = scalar(2**PRECISION, np.int32)
    values = graph.node("Div", found, unit)
    # OpenVINO divides in float32, where what is almost a whole number becomes one.
    rest = graph.node("Sub", found, graph.node("Mul", values, unit))
    values = graph.node("Sub", values, graph.cast(graph.node("Less", rest, scalar(0, np.int32)), INT32))
    return graph.cast(values, UINT8)
