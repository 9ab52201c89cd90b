"""The ONNX graph of a network of common layers, written while it looks at two images.

PyTorch's exporter, which takes networks of any kind apart, needs ten seconds for what is done here in less than one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from imgbench.files import one_thread

TOLERANCE = 1e-3  # of the largest output, between this graph and the network: sums are in another order


class UnknownOperationError(Exception):
    """What the network does cannot be written here."""


def recorded(module: nn.Module, example: Tensor, opset: int, outputs: Sequence[str]) -> Any:
    """The onnx.ModelProto of a module in evaluation: `pixels`, of which `example` is two images, give these outputs.

    It computes what the module does, on other numbers of images too: that was compared.

    Raises:
        UnknownOperationError: it has other operations than those written here, or depends on the number of images.
    """
    import onnx

    recorder = _Recorder(module, example)
    with torch.no_grad(), one_thread(), recorder:
        found = dict(zip(outputs, module(example), strict=True))
    helper, kinds = onnx.helper, onnx.TensorProto
    for output, tensor in found.items():
        recorder.nodes.append(helper.make_node("Identity", [recorder.name(tensor)], [output]))
    graph = helper.make_graph(
        recorder.nodes,
        "network",
        [helper.make_tensor_value_info("pixels", kinds.UINT8, ["batch", *example.shape[1:]])],
        [
            helper.make_tensor_value_info(output, kinds.FLOAT, ["batch", *tensor.shape[1:]])
            for output, tensor in found.items()
        ],
        list(recorder.constants.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    _compare(model, module, example)
    return model


def _compare(model: Any, module: nn.Module, example: Tensor) -> None:
    """Raises UnknownOperationError: the model does not compute what the module does."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong with it is told by the error
    options.intra_op_num_threads = 1
    images = np.random.default_rng(0).integers(0, 256, (1, *example.shape[1:]), np.uint8)  # it was written for two
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = [np.asarray(output) for output in session.run(None, {"pixels": images})]
    except Exception as error:  # onnxruntime's own classes have nothing in common but this
        raise UnknownOperationError(str(error)) from error
    with torch.no_grad(), one_thread():
        expected = [part.float().cpu().numpy() for part in module(torch.from_numpy(images).to(example.device))]
    for ours, theirs in zip(found, expected, strict=True):
        if ours.shape != theirs.shape or not np.allclose(ours, theirs, 0, TOLERANCE * np.abs(theirs).max()):
            raise UnknownOperationError("the graph computes something else")


class _Recorder(TorchFunctionMode):
    """Writes a node for each operation on what was made of the images; other tensors are constants."""

    def __init__(self, module: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.names = {id(images): "pixels"}
        self.kept = [images]  # so that no other tensor gets its id
        self.parameters = {id(value): name for name, value in (*module.named_parameters(), *module.named_buffers())}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        inputs = [value for part in args for value in (part if isinstance(part, list | tuple) else [part])]
        if not isinstance(found, Tensor) or not any(id(value) in self.names for value in inputs):
            return found
        if id(found) in self.names:  # nothing was done, as by `float` of what is float
            return found
        if func not in WRITERS:
            raise UnknownOperationError(resolve_name(func) or str(func))
        self.names[id(found)] = WRITERS[func](self, *args, **(kwargs or {}))
        self.kept.append(found)
        return found

    def name(self, value: Tensor | np.ndarray) -> str:
        """Of a tensor that a node reads."""
        if id(value) in self.names:
            return self.names[id(value)]
        import onnx

        name = self.parameters.get(id(value), f"constant_{len(self.constants)}")
        if name not in self.constants:
            array = value.detach().float().cpu().numpy() if isinstance(value, Tensor) else value
            self.constants[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def node(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Writes a node with these tensors or arrays as inputs; returns the name of its output."""
        import onnx

        output = f"{kind}_{len(self.nodes)}"
        names = [value if isinstance(value, str) else self.name(value) for value in inputs if value is not None]
        self.nodes.append(onnx.helper.make_node(kind, names, [output], name=f"node_{output}", **attributes))
        return output


def _known(condition: bool, what: str) -> None:
    if not condition:
        raise UnknownOperationError(what)


def _pair(value: Any) -> list[int]:
    _known(not isinstance(value, str), f"padding={value}")
    return [int(part) for part in value] * (2 // len(value)) if isinstance(value, Sequence) else [int(value)] * 2


def _conv(
    graph: _Recorder, x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> str:  # fmt: skip
    shape = list(weight.shape[2:])
    return graph.node(
        "Conv", x, weight, bias, kernel_shape=shape, strides=_pair(stride), pads=_pair(padding) * 2,
        dilations=_pair(dilation), group=groups,
    )  # fmt: skip


def _batch_norm(
    graph: _Recorder, x: Tensor, mean: Any, var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> str:  # fmt: skip
    _known(not training and None not in (mean, var, weight, bias), "normalisation by the batch")
    return graph.node("BatchNormalization", x, weight, bias, mean, var, epsilon=eps)


def _hardtanh(graph: _Recorder, x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> str:
    return graph.node("Clip", x, np.float32(min_val).reshape(()), np.float32(max_val).reshape(()))


def _max_pool(
    graph: _Recorder, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> str:  # fmt: skip
    _known(not ceil_mode and _pair(dilation) == [1, 1], "max_pool2d")
    shape = _pair(kernel_size)
    return graph.node(
        "MaxPool", x, kernel_shape=shape, strides=_pair(stride) if stride else shape, pads=_pair(padding) * 2
    )


def _adaptive_avg_pool(graph: _Recorder, x: Tensor, output_size: Any) -> str:
    rows, columns = _pair(output_size)
    height, width = x.shape[2:]
    if (rows, columns) == (1, 1):
        return graph.node("GlobalAveragePool", x)
    _known(height % rows == 0 and width % columns == 0, "adaptive pooling in cells of several sizes")
    cell = [height // rows, width // columns]
    return graph.node("AveragePool", x, kernel_shape=cell, strides=cell)


def _pad(graph: _Recorder, x: Tensor, pad: Any, mode: str = "constant", value: Any = None) -> str:
    _known(mode == "constant" and not value, f"pad {mode}")
    before, after = [0] * x.dim(), [0] * x.dim()
    for place in range(len(pad) // 2):  # the last dimension comes first
        before[-1 - place], after[-1 - place] = pad[2 * place : 2 * place + 2]
    return graph.node("Pad", x, np.array([*before, *after], np.int64))


def _mean(graph: _Recorder, x: Tensor, dim: Any, keepdim: bool = False) -> str:
    axes = np.atleast_1d(np.array(dim, np.int64))
    return graph.node("ReduceMean", x, axes, keepdims=int(keepdim))


def _linear(graph: _Recorder, x: Tensor, weight: Tensor, bias: Any = None) -> str:
    _known(x.dim() == 2, "a linear layer on tokens")
    return graph.node("Gemm", x, weight, bias, transB=1)


def _flatten(graph: _Recorder, x: Tensor, start_dim: int = 0, end_dim: int = -1) -> str:
    _known(start_dim == 1 and end_dim in (-1, x.dim() - 1), "flatten")
    return graph.node("Flatten", x, axis=1)


def _permute(graph: _Recorder, x: Tensor, *dims: Any) -> str:
    order = dims[0] if len(dims) == 1 else dims
    return graph.node("Transpose", x, perm=[int(dim) for dim in order])


def _index(graph: _Recorder, x: Tensor, index: Any) -> str:
    """Further dimensions of one, such as `x[:, :, None, None]`; of parts, nothing."""
    parts = index if isinstance(index, tuple) else (index,)
    _known(all(part is None or part == slice(None) for part in parts), "an index")
    return graph.node("Unsqueeze", x, np.array([i for i, part in enumerate(parts) if part is None], np.int64))


def _add(graph: _Recorder, x: Any, other: Any, alpha: float = 1) -> str:
    _known(alpha == 1 and isinstance(x, Tensor) and isinstance(other, Tensor), "add")
    return graph.node("Add", x, other)


def _cast(graph: _Recorder, x: Tensor, **_: Any) -> str:
    return graph.node("Cast", x, to=1)  # float32


def _dropout(graph: _Recorder, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> str:
    _known(not training, "dropout")
    return graph.node("Identity", x)


WRITERS: dict[Any, Callable[..., str]] = {
    F.adaptive_avg_pool2d: _adaptive_avg_pool,
    F.batch_norm: _batch_norm,
    F.conv2d: _conv,
    F.dropout: _dropout,
    F.hardtanh: _hardtanh,
    F.linear: _linear,
    F.max_pool2d: _max_pool,
    F.pad: _pad,
    F.relu: lambda graph, x, inplace=False: graph.node("Relu", x),
    Tensor.__getitem__: _index,
    Tensor.add: _add,
    Tensor.__add__: _add,
    Tensor.__iadd__: _add,
    Tensor.flatten: _flatten,
    Tensor.float: _cast,
    Tensor.mean: _mean,
    Tensor.permute: _permute,
    Tensor.softmax: lambda graph, x, dim: graph.node("Softmax", x, axis=dim),
    torch.addcmul: lambda graph, x, one, other: graph.node("Add", x, graph.node("Mul", one, other)),
    torch.cat: lambda graph, tensors, dim=0: graph.node("Concat", *tensors, axis=dim),
    torch.flatten: _flatten,
    torch.max_pool2d: _max_pool,
    torch.relu: lambda graph, x: graph.node("Relu", x),
}
