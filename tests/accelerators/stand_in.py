"""A `neuron` device in pure Python: tensors that say they lie on it and are computed on the CPU.

It stands in for AWS's backend where there is no Trainium: device names, dispatch, autocast, random streams,
memory figures and the process group behave as documented; speed and compilation do not. `install()` renames
torch's private device type, which cannot be undone: call it in a process of its own.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

__all__ = ["CALLS", "install", "register_process_group"]

CALLS: list[str] = []  # what was asked of the device's module, in order
_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
_kept: list[Any] = []  # registrations end with their library objects


class OnNeuron(Tensor):
    """A tensor of device `neuron` whose values lie in a tensor on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> OnNeuron:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
            requires_grad=False,
        )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"OnNeuron({self.inner!r})"

    def tolist(self) -> Any:  # torch refuses it for subclasses; a real device's tensor is none
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types_: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        where = _device_of((args, kwargs))
        leaves = False
        if (wanted := kwargs.get("device")) is not None:
            wanted = torch.device(wanted)
            leaves = wanted.type != "neuron"
            kwargs["device"] = wanted if leaves else torch.device("cpu")
            where = where if leaves else _indexed(wanted)
        kwargs.pop("pin_memory", None)
        if func is torch.ops.aten.copy_.default and not isinstance(args[0], OnNeuron):
            return func(args[0], *tree_map(_inner, args[1:]), **tree_map(_inner, kwargs))
        out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if func._schema.is_mutable:
            return _same_objects(func, args, kwargs, out)
        if leaves or func is torch.ops.aten._local_scalar_dense.default:
            return out
        return tree_map(lambda value: OnNeuron(value, where) if isinstance(value, Tensor) else value, out)


def install(devices: int = 1) -> types.ModuleType:
    """Make the device `neuron` and return its module, `torch.neuron`."""
    from torch.utils import backend_registration

    module = _module(devices)
    backend_registration._setup_privateuseone_for_python_backend("neuron", backend_module=module)
    _factories()
    _autocast()
    package = types.ModuleType("torch_neuronx")
    package.get_fallback_ops = lambda: ["aten::unique_consecutive", "aten::nonzero"]  # type: ignore[attr-defined]
    sys.modules["torch_neuronx"] = package
    return module


# Tensors


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnNeuron) else value


def _indexed(device: torch.device) -> torch.device:
    return torch.device("neuron", device.index if device.index is not None else torch.neuron.current_device())


def _device_of(tree: Any) -> torch.device:
    found: list[torch.device] = []
    tree_map(lambda value: found.append(value.device) if isinstance(value, OnNeuron) else None, tree)
    return found[0] if found else torch.device("neuron", 0)


def _same_objects(func: Any, args: Any, kwargs: Any, out: Any) -> Any:
    """Return the arguments that an operation changed, as it would return them itself."""
    changed = []
    for place, argument in enumerate(func._schema.arguments):
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            if isinstance(value, OnNeuron) and value.shape != value.inner.shape:
                raise RuntimeError(f"{func} changed a tensor's shape, which the stand-in cannot follow")
            changed.append(value)
    returned = len(func._schema.returns)
    if returned == 0:
        return None
    return changed[0] if returned == 1 else tuple(changed[:returned])


def _factories() -> None:
    library = torch.library.Library("aten", "IMPL")

    def empty(size: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None,
              memory_format: Any = None) -> Tensor:  # fmt: skip
        inner = torch.empty(size, dtype=dtype, device="cpu", memory_format=memory_format)
        return OnNeuron(inner, _indexed(torch.device(device)))

    def empty_strided(size: Any, stride: Any, *, dtype: Any = None, layout: Any = None, device: Any = None,
                      pin_memory: Any = None) -> Tensor:  # fmt: skip
        inner = torch.empty_strided(size, stride, dtype=dtype, device="cpu")
        return OnNeuron(inner, _indexed(torch.device(device)))

    def copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
        _inner(target).copy_(_inner(source))
        return target

    def set_source(tensor: Tensor, source: Tensor) -> Tensor:
        tensor.inner = source.inner  # type: ignore[attr-defined]
        return tensor

    for name in _RESIZING:
        packet, _, overload = name.partition(".")
        library.impl(
            name, _made(getattr(getattr(torch.ops.aten, packet), overload or "default")), "PrivateUse1"
        )
    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    library.impl("set_.source_Tensor", set_source, "PrivateUse1")
    _kept.append(library)


# They make an empty tensor and give it its size later, which a wrapper's size would not follow.
_RESIZING = ("arange", "arange.start", "arange.start_step", "linspace", "randperm", "randperm.generator")


def _made(operation: Any) -> Any:
    def kernel(*args: Any, **kwargs: Any) -> Tensor:
        where = _indexed(torch.device(kwargs.pop("device")))
        kwargs.pop("pin_memory", None)
        return OnNeuron(operation(*args, **kwargs, device=torch.device("cpu")), where)

    return kernel


# Autocast

_LOWER = (
    "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention",
    "conv1d", "conv2d", "conv3d",
)  # fmt: skip
_FLOAT32 = ("mse_loss", "cross_entropy_loss", "layer_norm", "softmax.int", "log_softmax.int")


def _autocast() -> None:
    rest = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    library = torch.library.Library("aten", "IMPL")
    for name in _LOWER:
        library.impl(name, _casting(name, lower=True), "AutocastPrivateUse1")
    for name in _FLOAT32:
        library.impl(name, _casting(name, lower=False), "AutocastPrivateUse1")
    _kept.extend([rest, library])


def _casting(name: str, *, lower: bool) -> Any:
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(torch.ops.aten, packet), overload or "default")

    def cast(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return value.to(torch.get_autocast_dtype("neuron") if lower else torch.float32)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_KEYS):
            return operation(*tree_map(cast, args), **tree_map(cast, kwargs))

    return kernel


# The device's module


def _module(devices: int) -> types.ModuleType:
    module = types.ModuleType("torch.neuron")
    state = {"device": 0, "ready": False}
    streams = [torch.Generator().manual_seed(0) for _ in range(devices)]

    def index(device: Any) -> int:
        if device is None:
            return state["device"]
        device = torch.device("neuron", device) if isinstance(device, int) else torch.device(device)
        return state["device"] if device.index is None else device.index

    def noted(name: str, value: Any = None) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            CALLS.append(name)
            return value() if callable(value) else value

        return call

    def set_device(device: Any) -> None:
        CALLS.append("set_device")
        state["device"], state["ready"] = index(device), True

    def manual_seed_all(seed: int) -> None:
        for stream in streams:
            stream.manual_seed(seed)

    def memory_stats(device: Any = None) -> dict[str, Any]:
        CALLS.append("memory_stats")
        part = {"current": 2 * 2**30, "peak": 3 * 2**30, "allocated": 9 * 2**30, "freed": 7 * 2**30}
        return {"allocated_bytes": part, "reserved_bytes": dict(part), "num_ooms": 0}

    known = {
        "is_available": lambda: True,
        "is_initialized": lambda: state["ready"],
        "_is_in_bad_fork": lambda: False,
        "_lazy_init": lambda: None,
        "device_count": lambda: devices,
        "current_device": lambda: state["device"],
        "set_device": set_device,
        "synchronize": noted("synchronize"),
        "manual_seed": lambda seed: streams[state["device"]].manual_seed(seed),
        "manual_seed_all": manual_seed_all,
        "get_rng_state": lambda device=None: streams[index(device)].get_state(),
        "set_rng_state": lambda new, device=None: streams[index(device)].set_state(new.cpu()),
        "get_amp_supported_dtype": lambda: [torch.float32, torch.float16, torch.bfloat16],
        "get_device_name": lambda device=None: "Trainium2",
        "empty_cache": noted("empty_cache"),
        "memory_stats": memory_stats,
    }
    for name, function in known.items():
        setattr(module, name, function)
    return module


# The process group


def register_process_group() -> None:
    """Register a backend `neuron` that hands the values to gloo; making a group is noted in `CALLS`."""
    import torch.distributed as dist

    class Forwarding(dist.ProcessGroup):
        """Collective operations on the CPU tensors within."""

        def __init__(self, store: Any, rank: int, size: int, timeout: Any) -> None:
            super().__init__(rank, size)
            self.gloo = dist.ProcessGroupGloo(store, rank, size, timeout)

        def getBackendName(self) -> str:
            return "neuron"

        def allreduce(self, tensors: Any, opts: Any = None) -> Any:
            return self.gloo.allreduce(_inners(tensors), opts or dist.AllreduceOptions())

        def broadcast(self, tensors: Any, opts: Any = None) -> Any:
            return self.gloo.broadcast(_inners(tensors), opts or dist.BroadcastOptions())

        def allgather(self, outputs: Any, tensors: Any, opts: Any = None) -> Any:
            wanted = [_inners(row) for row in outputs]
            return self.gloo.allgather(wanted, _inners(tensors), opts or dist.AllgatherOptions())

        def barrier(self, opts: Any = None) -> Any:
            return self.gloo.barrier(dist.BarrierOptions())

    def create(store: Any, rank: int, size: int, timeout: Any) -> Any:
        CALLS.append("process_group")
        return Forwarding(store, rank, size, timeout)

    dist.Backend.register_backend("neuron", create, devices=["neuron"])


def _inners(tensors: Any) -> list[Tensor]:
    return [_inner(tensor) for tensor in tensors]
