"""Reads the pickle of `torch.save`: tensors and numbers in dictionaries, lists and tuples.

Its operations are walked one by one, those that `torch.save` writes and no others. Nothing is
imported or called, and nothing takes memory but by the bytes that are there.
"""

import pickletools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_MOST = 1 << 17  # operations; a file of some hundred tensors has some thousand
_ATOMS = (str, int, float, bool, type(None))
_IDLE = ("PROTO", "FRAME")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
)
_CONTAINERS = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_PUTS = ("BINPUT", "LONG_BINPUT", "MEMOIZE")
_GETS = ("BINGET", "LONG_BINGET")
_MARKED = 0
_GATHERS = {  # what goes from the end of the stack into one object
    **{"TUPLE": _MARKED, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3},
    **{"APPENDS": _MARKED, "APPEND": 1, "SETITEMS": _MARKED, "SETITEM": 2},
}


class Refused(ValueError):
    """The pickle wants something else than tensors; the message is the name of that."""


class Storage(NamedTuple):
    """The numbers of one or several tensors.

    Attributes:
      kind: PyTorch's name, such as `FloatStorage`.
      key: its name in the file.
    """

    kind: str
    key: str


class _Name(NamedTuple):
    """Something of PyTorch's that the pickle looks up."""

    module: str
    name: str


_TENSOR = _Name("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = _Name("torch._utils", "_rebuild_parameter")
_PARAMETER_WITH_STATE = _Name("torch._utils", "_rebuild_parameter_with_state")
_DICTIONARY = _Name("collections", "OrderedDict")
_SHAPE = _Name("torch", "Size")
_CALLED = (_TENSOR, _PARAMETER, _PARAMETER_WITH_STATE, _DICTIONARY, _SHAPE)

# From a storage, the place of the first element, the shape and the strides, all in elements.
Build = Callable[[Storage, int, tuple[int, ...], tuple[int, ...]], Any]


def load(data: bytes, build: Build) -> Any:
    """Returns what was saved.

    Args:
      data: the pickle.
      build: makes a tensor.

    Raises:
      Refused: it wants something else.
      Exception: whatever a damaged pickle leads to, see `foreign.parsing`.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    operations: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]] = pickletools.genops(data)
    for number, (operation, value, _) in enumerate(operations):
        if number == _MOST:
            raise ValueError(f"its pickle has more than {_MOST:,} operations")
        name = operation.name
        if name == "STOP":
            return stack.pop()
        if name in _VALUES:
            stack.append(value)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _CONTAINERS:
            stack.append(_CONTAINERS[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name in _GATHERS:
            first = len(stack) - _GATHERS[name] if _GATHERS[name] else marks.pop()
            if first < 0:
                raise ValueError("its pickle takes more than it has")
            items = stack[first:]
            del stack[first:]
            _gather(name, stack, items)
        elif name in _PUTS:
            memo[len(memo) if name == "MEMOIZE" else value] = stack[-1]
        elif name in _GETS:
            stack.append(memo[value])
        elif name == "GLOBAL":
            stack.append(_known(*value.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute = stack.pop()
            stack.append(_known(stack.pop(), attribute))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_call(stack.pop(), arguments, build))
        elif name == "BUILD":
            stack.pop()  # attributes, such as the versions of a module's parts
        elif name not in _IDLE:
            raise Refused(f"the operation {name}")
    raise ValueError("its pickle has no end")


def _gather(name: str, stack: list[Any], items: list[Any]) -> None:
    """Makes a tuple of items, or puts them into the list or dictionary that ends the stack."""
    if name.startswith("TUPLE"):
        stack.append(tuple(items))
    elif name.startswith("APPEND"):
        stack[-1].extend(items)
    else:
        keys = items[::2]
        if not all(isinstance(key, _ATOMS) for key in keys):  # a hash of others may take forever
            raise Refused("keys that are neither text nor numbers")
        stack[-1].update(zip(keys, items[1::2], strict=True))


def _known(module: Any, name: Any) -> _Name:
    if not (isinstance(module, str) and isinstance(name, str)):
        raise ValueError("its pickle looks up what is no name")
    found = _Name(module, name)
    if found not in _CALLED and not (module == "torch" and name.endswith("Storage")):
        raise Refused(f"{module}.{name}")
    return found


def _storage(identifier: Any) -> Storage:
    _, kind, key, *_ = identifier
    if not (isinstance(kind, _Name) and isinstance(key, str)):
        raise ValueError("its pickle has a storage without a name")
    return Storage(kind.name, key)


def _call(function: Any, arguments: Any, build: Build) -> Any:
    if not (isinstance(function, _Name) and isinstance(arguments, tuple)):
        raise ValueError("its pickle calls what is no function")
    if function == _TENSOR:
        storage, first, shape, strides, *_ = arguments
        numbers = (first, *shape, *strides)
        if not (isinstance(storage, Storage) and all(isinstance(n, int) for n in numbers)):
            raise ValueError("its pickle has a tensor that is none")
        return build(storage, first, tuple(shape), tuple(strides))
    if function in (_PARAMETER, _PARAMETER_WITH_STATE):
        return arguments[0]
    if function == _DICTIONARY and not arguments:
        return {}
    if function == _SHAPE:
        return tuple(*arguments)
    raise Refused(f"{'.'.join(function)} of something")
