"""Read pickled numpy arrays without running anything that the file asks for.

A pickle is a program: loading it calls whatever it names. Here no name of the file ever reaches the real object. The
handful of names that a pickled array needs is answered with stand-ins that write down what they are given; the array
is then made from the bytes with `numpy.frombuffer`. Every other name is refused.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError

_NUMBER = re.compile(r"b1|[iu][1248]|f[248]")


class _Refused(pickle.UnpicklingError):
    """What was found in the pickle that is no array of numbers."""


class _Name:
    """Stands in for a class or function that a pickled array names; cannot be changed by the file."""

    __slots__ = ("_make", "_title")

    def __init__(self, title: str, make: Callable[..., Any] | None = None) -> None:
        self._title = title
        self._make = make

    def __call__(self, *args: Any) -> Any:
        if self._make is None:
            raise _Refused(f"a call of '{self._title}'")
        try:
            return self._make(*args)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise _Refused(f"a call of '{self._title}' with odd arguments") from error

    def __setstate__(self, state: object) -> None:
        raise _Refused(f"an attempt to change '{self._title}'")


class _Array:
    """An array in the making: its values come with a second instruction."""

    __slots__ = ("value",)

    def __init__(self, value: NDArray[Any] | None = None) -> None:
        self.value = value

    def __setstate__(self, state: object) -> None:
        if self.value is not None or not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("an array with an odd state")
        _, shape, dtype, fortran, raw = state
        self.value = _array(raw, dtype, shape, "F" if fortran else "C")


class _DType:
    """The type of an array's numbers."""

    __slots__ = ("value",)

    def __init__(self, value: np.dtype[Any]) -> None:
        self.value = value

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise _Refused("an array of records")
        order = _text(state[1])
        if order not in ("<", ">", "=", "|"):
            raise _Refused(f"a byte order {order!r}")
        self.value = np.dtype(order + self.value.str[1:])


def _text(value: object) -> str:
    """Python 2 wrote names as bytes, Python 3 as text."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, str):
        return value
    raise _Refused(f"a {type(value).__name__} where a name is expected")


def _dtype(name: object, *_: object) -> _DType:
    text = _text(name)
    if not _NUMBER.fullmatch(text):
        raise _Refused("an array of Python objects" if text.startswith("O") else f"an array of type {text!r}")
    return _DType(np.dtype(text))


def _array(raw: object, dtype: object, shape: object, order: object) -> NDArray[Any]:
    if isinstance(raw, list):
        raise _Refused("an array of Python objects")
    if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, _DType) or not isinstance(shape, tuple):
        raise _Refused("an array whose parts are of other types")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise _Refused(f"an array of shape {shape}")
    if math.prod(shape) * dtype.value.itemsize != len(raw):
        raise _Refused(f"an array of shape {shape} in {len(raw)} bytes")
    letter = _text(order)
    if letter not in ("C", "F"):
        raise _Refused(f"an array in order {letter!r}")
    flat = np.frombuffer(raw, dtype.value) if len(raw) else np.empty(0, dtype.value)  # (n,)
    made: NDArray[Any] = flat.reshape(shape, order="F" if letter == "F" else "C")
    made.flags.writeable = False
    return made


def _reconstruct(kind: object, *_: object) -> _Array:
    if kind is not _NDARRAY:
        raise _Refused("an array of another class")
    return _Array()


def _frombuffer(raw: object, dtype: object, shape: object, order: object) -> _Array:
    return _Array(_array(raw, dtype, shape, order))


def _scalar(dtype: object, raw: object) -> int | float | bool:
    number: int | float | bool = _array(raw, dtype, (), "C").item()
    return number


def _encode(text: object, encoding: object) -> bytes:
    """Python 3 writes bytes this way for Python 2."""
    if not isinstance(text, str) or _text(encoding) != "latin1":
        raise _Refused("a call of '_codecs.encode' other than for bytes")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Python 3 writes the bytes of an empty array this way for Python 2."""
    return b""


_NDARRAY = _Name("numpy.ndarray")
_ADMITTED = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Name("numpy.dtype", _dtype),
    ("_codecs", "encode"): _Name("_codecs.encode", _encode),
    ("__builtin__", "bytes"): _Name("bytes", _no_bytes),
} | {
    (f"numpy.{core}.{module}", name): _Name(f"numpy.{core}.{module}.{name}", make)
    for core in ("core", "_core")
    for module, name, make in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _frombuffer),
    )
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _ADMITTED.get((module, name))
        if found is None:
            raise _Refused(f"the name '{module}.{name}'")
        return found


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read a pickled dict of numeric arrays, as Python 2 or 3 wrote it.

    Text of Python 2 is read as latin1; its raw bytes stay bytes, so that a file of 100 MB takes 100 MB of memory.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict of str to ndarray
        The arrays, read-only, in the file's own type and shape.

    Raises
    ------
    UserError
        If the file cannot be read, ends early, names anything but numpy arrays of numbers (none of it is run), or
        holds something else than a dict of arrays.
    """
    found = _load(path)
    if not isinstance(found, dict):
        raise UserError(
            f"{path}: found a pickled {_kind(found)}, expected a dict of numpy arrays; is it the right file?"
        )
    arrays: dict[str, NDArray[Any]] = {}
    for key, value in found.items():
        if not isinstance(key, str | bytes) or not isinstance(value, _Array) or value.value is None:
            kind = "half an array" if isinstance(value, _Array) else type(value).__name__
            raise UserError(f"{path}: found {kind} under {key!r}, expected a dict of numpy arrays by name")
        arrays[_text(key)] = value.value
    return arrays


def load_array(path: Path) -> NDArray[Any]:
    """Read one pickled numeric array, as Python 2 or 3 wrote it.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    ndarray
        The array, read-only, in the file's own type and shape.

    Raises
    ------
    UserError
        As `load_arrays`, or if the file holds something else than one array.
    """
    found = _load(path)
    if not isinstance(found, _Array) or found.value is None:
        raise UserError(f"{path}: found a pickled {_kind(found)}, expected one numpy array; is it the right file?")
    return found.value


def ends_whole(path: Path) -> None:
    """Raise `UserError` where a file does not end as every pickle ends; reads its last byte only."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - 1))
            last = file.read(1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if last != pickle.STOP:
        raise UserError(_ends_early(path, size))


def _kind(found: object) -> str:
    if isinstance(found, _Array):
        return "array" if found.value is not None else "half of an array"
    return type(found).__name__


def _load(path: Path) -> object:
    """Run the pickle with stand-ins for every name; `UserError` whatever goes wrong."""
    size = 0
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            found: object = _ArraysOnly(file, encoding="bytes").load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except _Refused as error:
        raise UserError(
            f"{path}: found {error} in the pickle, expected numpy arrays of numbers only; nothing of it was run; "
            "get the file from its publisher again"
        ) from error
    except EOFError as error:
        raise UserError(_ends_early(path, size)) from error
    except MemoryError as error:
        raise UserError(f"{path}: found a pickle that is too large for memory; get the file again") from error
    # A damaged pickle can fail in any of these ways; which of them tells the user nothing.
    except (pickle.UnpicklingError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        if "truncated" in str(error) or "exhausted" in str(error):
            raise UserError(_ends_early(path, size)) from error
        raise UserError(
            f"{path}: found no readable pickle ({' '.join(str(error).split())}), expected a pickled dict of numpy "
            "arrays; get the file again"
        ) from error
    return found


def _ends_early(path: Path, size: int) -> str:
    return f"{path}: found a pickle that ends early (at {size:,} bytes), expected a whole one; copy or unpack it again"
