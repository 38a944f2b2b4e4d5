"""An encoder and the density of its embeddings as one ONNX graph."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..scoring.regressor import SupportSetRegressor
from .networks import fingerprint
from .onnx_metadata import record_encoder
from .reading import opened, reason
from .whole import new_file, whole

if TYPE_CHECKING:
    import onnx

INPUT, OUTPUT, DENSITY = "data", "embedding", "log_density"
OPSET = 17


def export_with_density(
    encoder: torch.nn.Module | str | Path,
    regressor: SupportSetRegressor,
    path: str | Path,
    input_shape: Sequence[int] = (),
) -> None:
    """Write the encoder with a second output `log_density` (B,), equal to ``regressor.log_density(embedding)``.

    The score of a pair is then ``tau * cosine + logaddexp(log_density1, log_density2)``.

    Args:
        encoder: an .onnx file whose first output is the embedding; or a module or TorchScript module on the
            CPU, which is traced and exported for any batch size.
        path: a new .onnx file; it appears under its name when it is complete.
        input_shape: the shape of one sample, such as (3, 112, 112); needed for a module.

    Raises:
        ValueError: the encoder's embeddings have another size, or it has an output `log_density` already.
        RuntimeError: the regressor is not fitted.
    """
    import onnx

    path = new_file(path, ".onnx")
    regressor.check_fitted()
    graph = read_graph(encoder) if isinstance(encoder, (str, Path)) else _traced(encoder, input_shape)
    embedding = graph.graph.output[0]
    size = [dimension.dim_value for dimension in embedding.type.tensor_type.shape.dim][-1:]
    if size not in ([0], [], [regressor.embedding_size]):
        raise ValueError(
            f"the encoder's embeddings have {size[0]} numbers, the regressor's {regressor.embedding_size}: fit a "
            "regressor to embeddings of this encoder"
        )
    if DENSITY in {output.name for output in graph.graph.output}:
        raise ValueError(f"the encoder has an output {DENSITY} already: give the encoder alone")
    opset = next(entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx"))
    example = torch.ones(1, regressor.embedding_size)
    density = _traced(_DensityGraph(regressor), example.shape[1:], ("ida/embedding", DENSITY), min(opset, OPSET))
    density = onnx.compose.add_prefix(
        onnx.version_converter.convert_version(density, opset), "ida/", rename_inputs=False, rename_outputs=False
    )
    density.ir_version = graph.ir_version
    del density.metadata_props[:]  # the joined graph counts as the encoder
    names = [output.name for output in graph.graph.output]
    merged = onnx.compose.merge_models(
        graph, density, io_map=[(embedding.name, "ida/embedding")], outputs=[*names, DENSITY]
    )
    onnx.checker.check_model(merged)
    with whole(path) as partial:
        onnx.save(merged, partial)


def read_graph(path: str | Path, complete: bool = True) -> onnx.ModelProto:
    """The graph of an .onnx file.

    Args:
        complete: whether weights that lie in files of their own are read too, and the graph is checked.

    Raises:
        ValueError: the file is damaged.
        OSError: it does not exist or cannot be opened.
    """
    import onnx

    opened(path).close()
    try:
        graph = onnx.load(path, load_external_data=complete)
        if complete:
            onnx.checker.check_model(graph)
        if not graph.graph.output:
            raise ValueError("it has no output")
    except Exception as error:  # of protobuf or onnx
        raise ValueError(f"{path} is no whole ONNX file: {reason(error)}") from error
    return graph


class _DensityGraph(torch.nn.Module):
    """`SupportSetRegressor.log_density` without its checks, made of operations that every opset has."""

    def __init__(self, regressor: SupportSetRegressor):
        super().__init__()
        self.regressor = regressor

    def forward(self, embedding: Tensor) -> Tensor:
        embedding = embedding.reshape(-1, self.regressor.embedding_size)
        return self.regressor.predict(embedding / (embedding * embedding).sum(1, keepdim=True).sqrt())


def _traced(
    module: torch.nn.Module, input_shape: Sequence[int], names: tuple[str, str] = (INPUT, OUTPUT), opset: int = OPSET
) -> onnx.ModelProto:
    import onnx

    if not input_shape:
        raise ValueError("input_shape is missing: give the shape of one sample, such as (3, 112, 112)")
    buffer, was_training = io.BytesIO(), module.training
    export = dynamic_batch(torch.onnx.export)
    try:
        module.eval()
        example = torch.ones(1, *input_shape)
        _check_takes(module, example)
        export(module, example, buffer, input_names=[names[0]], output_names=[names[1]], opset_version=opset)
    finally:
        module.train(was_training)
    return onnx.load_from_string(buffer.getvalue())


@torch.no_grad()
def _check_takes(module: torch.nn.Module, example: Tensor) -> None:
    try:
        module(example)
    except RuntimeError as error:
        shape = "x".join(map(str, example.shape[1:]))
        raise ValueError(
            f"the encoder does not take a sample of the shape {shape} ({reason(error)}): give the shape of one sample"
        ) from error


def dynamic_batch(export: Callable) -> Callable:
    """A variant of `torch.onnx.export` that traces a module of one input and one output, for any batch size.

    It declares the batch axis dynamic, because a traced reshape would otherwise contain the example's batch size. The
    file records the fingerprint of the module's weights.
    """

    has_dynamo = "dynamo" in inspect.signature(export).parameters

    @functools.wraps(export)
    def traced(
        model: torch.nn.Module,
        args: Any,
        f: Any,
        *,
        dynamo: bool = False,
        dynamic_axes: dict | None = None,
        input_names: list[str] | None = None,
        output_names: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        names = {"input_names": input_names or [INPUT], "output_names": output_names or [OUTPUT]}
        axes = dynamic_axes or {name: {0: "batch"} for group in names.values() for name in group}
        exporter = {"dynamo": dynamo} if has_dynamo else {}
        args = args if isinstance(args, tuple) else (args,)
        result = export(model, args, f, dynamic_axes=axes, **names, **exporter, **kwargs)
        with contextlib.nullcontext(f) if hasattr(f, "write") else open(f, "r+b") as file:
            record_encoder(file, fingerprint(model))
        return result

    return traced
