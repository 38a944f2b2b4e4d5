"""A CUDA device that is not there: tensors that say they are on it, with numbers that the CPU computes.

Every operation between such a tensor and one of the CPU fails, as on a GPU, and what would make the CPU wait for the
GPU is counted. So code for a GPU runs to its end, with right results, where there is none.
"""

import contextlib
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CAN_PRETEND = hasattr(torch._C, "_ensureCUDADeviceGuardSet")  # torch 2.8 and newer
CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default}
WAITS = {
    *(aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default),
    *(aten.unique_consecutive.default, aten._unique2.default, aten.repeat_interleave.Tensor),
}


class PretendTensor(torch.Tensor):
    @staticmethod
    def __new__(cls, real):
        shape = torch.empty_strided(real.size(), real.stride(), dtype=real.dtype, device="meta")
        tensor = torch.Tensor._make_subclass(cls, shape, real.requires_grad)
        tensor.real_numbers = real
        return tensor

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)

    def tolist(self):
        waits.append("tolist")
        return self.real_numbers.tolist()

    def __repr__(self):
        return f"PretendTensor({self.real_numbers})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


class _Everywhere(TorchDispatchMode):
    """For what has no tensor among its arguments, such as ``torch.zeros(3, device="cuda")``."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


waits = []  # the names of the operations that waited, of the innermost `pretend_cuda()`


@contextlib.contextmanager
def pretend_cuda(capability=(9, 0)):
    """Where tensors can be on the device; the value is the list of the operations that waited for it."""
    torch._C._ensureCUDADeviceGuardSet()
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # so that torch.tensor(1.0, device="cuda") asks this module
    with (
        mock.patch("torch.cuda._lazy_init", return_value=None),
        mock.patch("torch.cuda.get_device_capability", return_value=capability),
        mock.patch("verimargin.head.kernels.launch._State.failed", True),  # no kernel runs here
        _Everywhere(),
    ):
        waits.clear()
        try:
            yield waits
        finally:
            torch._C._set_only_lift_cpu_tensors(before)


def on_pretend_cuda(x):
    """A tensor moved to the device, or a module of which each tensor is moved."""
    if isinstance(x, torch.Tensor):
        return PretendTensor(x)
    for module in x.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(
                    PretendTensor(parameter.data), requires_grad=parameter.requires_grad
                )
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else PretendTensor(buffer)
    return x


def real(x):
    """The numbers of a tensor, on the CPU."""
    return x.detach().real_numbers if isinstance(x, PretendTensor) else x.detach()


def _compute(function, args, kwargs):
    if function is torch.ops.prim.device.default:
        return CUDA if isinstance(args[0], PretendTensor) else torch.device("cpu")
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    pretended = [x for x in tensors if isinstance(x, PretendTensor)]
    _check(function, tensors, pretended, args)
    device = kwargs.get("device")
    on_device = bool(pretended) if device is None else torch.device(device).type != "cpu"
    function_here = ON_THE_CPU.get(function, function)
    result = function_here(*tree_map(_real_argument, args), **tree_map(_real_argument, kwargs))
    wrapper = {id(x.real_numbers): x for x in pretended} if function._schema.is_mutable else {}

    def placed(x):
        if not isinstance(x, torch.Tensor):
            return x
        return wrapper.get(id(x)) if id(x) in wrapper else PretendTensor(x) if on_device else x

    return tree_map(placed, result)


def _check(function, tensors, pretended, args):
    if not pretended:
        return
    of_cpu = [x for x in tensors if not isinstance(x, PretendTensor) and x.dim() > 0]
    if of_cpu and function not in MOVES:
        raise AssertionError(f"{function}: a CPU tensor of shape {tuple(of_cpu[0].shape)} meets one of the GPU")
    indices = args[1] if function in (aten.index.Tensor, aten.index_put_.default) else []
    by_mask = any(i is not None and i.dtype == torch.bool for i in indices)
    if function in WAITS or by_mask:
        waits.append(function._schema.name)


def _mm_with_float32_sums(left, right, out_dtype, out):
    return out.copy_(left.to(out_dtype) @ right.to(out_dtype))


# Only a GPU has it, and torch 2.7 does not.
ON_THE_CPU = {aten.mm.dtype_out: _mm_with_float32_sums} if hasattr(aten.mm, "dtype_out") else {}


def _real_argument(x):
    if isinstance(x, torch.device):
        return torch.device("cpu")
    return x.real_numbers if isinstance(x, PretendTensor) else x
