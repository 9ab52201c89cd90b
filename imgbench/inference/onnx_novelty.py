"""How far images are from those of training, as the last part of an ONNX graph: what `FeatureDistribution` computes."""

from typing import Any

import numpy as np

from imgbench.evaluation.novelty import FeatureDistribution
from imgbench.inference.onnx_pixels import Nodes

PREFIX = "novelty/"


def add_novelty(model: Any, distribution: FeatureDistribution) -> None:
    """Adds the output `novelty` (N,) to an onnx.ModelProto that has `features`, in place of one that it has already.

    The directions, which may be larger than a small network, are kept in 16 bits: the distances are the same to
    one part in ten thousand.
    """
    import onnx

    graph = model.graph
    for part, name in ((graph.node, "novelty"), (graph.initializer, PREFIX), (graph.output, "novelty")):
        others = [one for one in part if not one.name.removeprefix("node_").startswith(name)]
        del part[:]
        part.extend(others)
    last = Nodes(PREFIX)
    directions = last.node("Cast", last.constant(distribution.directions, np.float16), to=1)  # (R, D)
    centred = last.node("Sub", "features", last.constant(distribution.mean, np.float32))
    along = last.node("Gemm", centred, directions, transB=1)  # (N, R)
    squares = last.node("MatMul", last.node("Mul", along, along), last.constant(distribution.precisions, np.float32))
    if distribution.elsewhere:
        rest = last.node("Sub", centred, last.node("MatMul", along, directions))
        length = last.node("ReduceSumSquare", rest, last.constant([1], np.int64), keepdims=0)
        share = last.node("Mul", length, last.constant(distribution.elsewhere, np.float32))
        squares = last.node("Add", squares, share)
    last.node("Sqrt", squares, output="novelty")
    graph.node.extend(last.nodes)
    graph.initializer.extend(last.constants)
    graph.output.append(onnx.helper.make_tensor_value_info("novelty", onnx.TensorProto.FLOAT, ["batch"]))
