"""A second device without a GPU: tensors on `ghost:0` that refuse to be mixed with CPU tensors.

Each holds a CPU tensor and computes with it, so that values equal the CPU's bit for bit. What would
make a GPU wait is recorded with the line that causes it. Needs PyTorch 2.10 or later, and a process
of its own: a registered device stays.
"""

import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

import torch
from torch import Tensor
from torch.utils import backend_registration

AVAILABLE = hasattr(backend_registration, '_setup_privateuseone_for_python_backend')
ROOT = Path(__file__).resolve().parents[2]
aten = torch.ops.aten
INDEXING = ('index', 'index_put', 'index_put_')
#: besides pointwise operations: those that take 0-dim CPU tensors beside tensors of the device
WITH_SCALARS = ('masked_fill', 'masked_fill_', 'fill', 'fill_', *INDEXING)


class Wait(NamedTuple):
    """One synchronisation: what kind ('to host', 'to device', 'value', 'index') and where."""

    kind: str
    place: str


WAITS: List[Wait] = []


class GhostTensor(Tensor):
    """A tensor of the second device; `host` is the CPU tensor that it computes with."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor) -> 'GhostTensor':
        layout = dict(strides=host.stride(), storage_offset=host.storage_offset())
        self = Tensor._make_wrapper_subclass(
            cls, host.size(), dtype=host.dtype, device='ghost:0', **layout
        )
        self.host = host
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    def tolist(self) -> Any:
        note('value')
        return self.detach().host.tolist()

    def __repr__(self) -> str:
        return f'ghost({self.host!r})'

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def __copy__(self) -> 'GhostTensor':
        return self.detach()

    def __reduce_ex__(self, protocol: int) -> Any:
        """Be a CPU tensor in a file, as one of CUDA is when it is loaded on the CPU."""
        return self.detach().host.__reduce_ex__(protocol)

    @property
    def data(self) -> 'GhostTensor':
        return self.detach()

    @data.setter
    def data(self, value: 'GhostTensor') -> None:
        with torch.no_grad():
            self.host.set_(value.host)


def compute(func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
    """Run an operation of the device on the CPU tensors inside."""
    inputs = [v for v in _flat((args, tuple(kwargs.values()))) if isinstance(v, Tensor)]
    to_cpu = False
    if func is aten.copy_.default:
        to_cpu = not isinstance(args[0], GhostTensor)
        queued = not to_cpu and (kwargs.get('non_blocking') or args[2:3] == (True,))
        _note_copy(isinstance(args[1], GhostTensor), not to_cpu, queued)
    elif func is aten._to_copy.default:
        wanted = kwargs.get('device')
        to_cpu = wanted is not None and torch.device(wanted).type == 'cpu'
        queued = not to_cpu and kwargs.get('non_blocking')
        _note_copy(isinstance(args[0], GhostTensor), not to_cpu, queued)
    else:
        _refuse_mixture(func, args, kwargs, inputs)
        _note_values(func, args)
    result = func(*_mapped(_on_host, args), **{k: _mapped(_on_host, v) for k, v in kwargs.items()})
    if to_cpu:
        return args[0] if func is aten.copy_.default else result
    known = {id(value.host): value for value in inputs if isinstance(value, GhostTensor)}
    found = _mapped(lambda value: _on_device(value, known), result)
    if func is aten.scalar_tensor.default:
        found.from_number = True
    return found


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(change, part) for part in value])
    return change(value)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def _on_host(value: Any) -> Any:
    if isinstance(value, GhostTensor):
        return value.host
    return torch.device('cpu') if isinstance(value, torch.device) else value


def _on_device(value: Any, known: Dict[int, Tensor]) -> Any:
    """An input itself where the operation returned its tensor: in place, or `out=`."""
    if not isinstance(value, Tensor):
        return value
    return known[id(value)] if id(value) in known else GhostTensor(value)


def _refuse_mixture(func: Any, args: Any, kwargs: Dict[str, Any], inputs: List[Tensor]) -> None:
    """RuntimeError where CUDA would say that tensors are on different devices."""
    name = func._schema.name.split('::')[1]
    generator = kwargs.get('generator')
    if generator is not None and generator.device.type == 'cpu':
        raise RuntimeError(f'{name}: expected a generator of ghost, got one of the cpu {where()}')
    strangers = [tensor for tensor in inputs if not isinstance(tensor, GhostTensor)]
    if not strangers:
        return
    if name in INDEXING:  # indices may come from the CPU
        note('to device')
        strangers = [t for t in strangers if not any(t is part for part in args[1])]
    beside = torch.Tag.pointwise in func.tags or name in WITH_SCALARS or '_foreach' in name
    written = args[0] if func._schema.is_mutable and args else None
    strangers = [t for t in strangers if not beside or t.dim() > 0 or t is written]
    if strangers:
        shapes = [tuple(tensor.shape) for tensor in strangers]
        raise RuntimeError(
            f'{name}: expected all tensors on ghost:0, found cpu tensors {shapes} at {where()}'
        )


def _note_copy(from_device: bool, to_device: bool, queued: Any) -> None:
    if from_device != to_device and not queued:
        note('to device' if to_device else 'to host')


def _note_values(func: Any, args: Tuple[Any, ...]) -> None:
    """Note an operation whose result, or the shape of it, the host has to know."""
    name = func._schema.name.split('::')[1]
    if name in INDEXING:
        masks = [part for part in args[1] if part is not None and part.dtype == torch.bool]
        # x[mask] = 0. becomes a masked_fill on CUDA
        if masks and not ('put' in name and getattr(args[2], 'from_number', False)):
            note('index')
    elif (
        torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags
    ):
        note('value' if 'local_scalar' in name else name)


def note(kind: str) -> None:
    WAITS.append(Wait(kind, where()))


def where() -> str:
    """The innermost line outside PyTorch and this file, as 'package/module.py:line function'."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path != __file__ and '/torch/' not in path and not path.startswith('<'):
            short = path.split('site-packages/')[-1].replace(f'{ROOT}/', '')
            return f'{short}:{frame.f_lineno} {frame.f_code.co_name}'
        frame = frame.f_back
    return 'unknown'


class _Module(backend_registration._DummyBackendModule if AVAILABLE else object):  # type: ignore
    """What PyTorch asks of `torch.ghost`."""

    def get_amp_supported_dtype(self) -> List[torch.dtype]:
        return [torch.float16, torch.bfloat16]


def register() -> List[torch.library.Library]:
    """Make `torch.device('ghost')` work in this process; the result must be kept alive."""
    backend_registration._setup_privateuseone_for_python_backend('ghost', backend_module=_Module())
    kernels = torch.library.Library('aten', 'IMPL')

    def implement(overload: Any) -> None:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            return compute(overload, args, kwargs)

        kernels.impl(overload, kernel, 'PrivateUse1')

    implement(aten.copy_.default)
    for name in torch._C._dispatch_get_all_op_names():
        space, _, rest = name.partition('::')
        packet, _, overload_name = rest.partition('.')
        if space != 'aten' or not hasattr(aten, packet):
            continue
        overload = getattr(getattr(aten, packet), overload_name or 'default', None)
        if overload is None:
            continue
        arguments = overload._schema.arguments
        tensors = any('Tensor' in str(argument.type) for argument in arguments)
        if any(argument.name == 'device' for argument in arguments) and not tensors:
            implement(overload)
    others = torch.library.Library('_', 'IMPL')
    others.fallback(lambda op, *args, **kwargs: compute(op, args, kwargs), 'PrivateUse1')
    others.fallback(torch.library.fallthrough_kernel, 'AutocastPrivateUse1')
    return [kernels, others]
