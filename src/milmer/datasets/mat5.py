"""Matlab files of version 5, walked from front to back: what is not wanted is inflated and thrown away.

One compressed variable may hold a whole study (DREAMER): a reader that keeps all of it needs gigabytes. The format is
that of MathWorks' "MAT-File Format", chapter 1, level 5: elements of a tag and data, a variable an element of elements.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from milmer.datasets.mat_values import DEEPEST, SMALL, Left, Place, Wanted, cell, struct, text

_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_LETTERS = {1: "latin-1", 2: "latin-1", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _OBJECT, _CHAR = 1, 2, 3, 4
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX, _LOGICAL = 0x0800, 0x0200
_BLOCK = 1 << 18


class _Stream:
    """Bytes of the file from its place on, inflated where they are a compressed element."""

    def __init__(self, file: BinaryIO, order: str, compressed: int | None = None) -> None:
        self._file, self.order = file, order
        self._compressed = compressed is not None
        self._left = compressed or 0  # compressed bytes not yet read
        self._inflate = zlib.decompressobj()
        self._buffer, self._next = b"", 0
        self.at = 0

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        self.at += count
        if not self._compressed:
            # Asked for more than there is, read() would first make room for it.
            data = self._file.read(min(count, os.fstat(self._file.fileno()).st_size))
        else:
            parts, missing = [], count
            while missing > 0 and self._fill():
                parts.append(self._buffer[self._next : self._next + missing])
                self._next += len(parts[-1])
                missing -= len(parts[-1])
            data = b"".join(parts)
        if len(data) != count:
            raise ValueError("it ends in the middle of a value")
        return data

    def skip(self, count: int) -> None:
        """Pass over bytes without keeping them."""
        while count > 0:
            step = min(count, _BLOCK)
            self.take(step)
            count -= step

    def _fill(self) -> bool:
        """Have inflated bytes ready; False at the end."""
        while self._next == len(self._buffer):
            packed = self._inflate.unconsumed_tail
            if not packed and self._left > 0 and not self._inflate.eof:
                packed = self._file.read(min(self._left, _BLOCK))
                self._left -= len(packed)
            if not packed:
                return False
            self._buffer, self._next = self._inflate.decompress(packed, _BLOCK), 0
        return True

    def tag(self) -> tuple[int, int, int]:
        """Type of the next element, its bytes, and the bytes of filling behind it; a small one's data come next."""
        first = int(np.frombuffer(self.take(4), self.order + "u4")[0])
        if first >> 16:  # small: type and length in four bytes, the data in the other four
            kind, size = first & 0xFFFF, first >> 16
            if size > 4:
                raise ValueError("a small element is longer than 4 bytes")
            return kind, size, 4 - size
        size = int(np.frombuffer(self.take(4), self.order + "u4")[0])
        return first, size, -size % 8

    def element(self) -> tuple[int, bytes]:
        """Type and data of the next element."""
        kind, size, filling = self.tag()
        data = self.take(size)
        self.skip(filling)
        return kind, data


@dataclass(frozen=True)
class Variable:
    """A variable of a file, whose value can be read while it is its turn."""

    name: str
    shape: tuple[int, ...]
    stream: _Stream
    flags: int

    def value(self, wanted: Wanted | None) -> Any:
        """Read the value."""
        return _value(self.stream, self.flags, self.shape, (self.name,), wanted)


def variables(path: Path) -> Iterator[Variable]:
    """Go through a file's variables.

    Raises
    ------
    ValueError, zlib.error
        If it is no Matlab file of version 5 or is damaged.
    """
    with path.open("rb") as file:
        header = file.read(128)
        order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
        if order is None:
            raise ValueError("it has not the header of a Matlab file")
        end = path.stat().st_size
        while file.tell() < end:
            kind, size, filling = _Stream(file, order).tag()
            start = file.tell()
            if start + size > end:
                raise ValueError("it ends in the middle of a value")
            stream = _Stream(file, order, size if kind == _COMPRESSED else None)
            if kind == _COMPRESSED:
                filling = 0  # alone of all elements they are not filled up
                kind, _, _ = stream.tag()
            if kind == _MATRIX:
                flags, shape, name = _about(stream)
                yield Variable(name, shape, stream, flags)
            file.seek(start + size + filling)


def read(path: Path, names: Collection[str] | None, wanted: Wanted | None) -> tuple[list[str], dict[str, Any]]:
    """Return the names of all variables, and the values of those in `names` (all without)."""
    found: list[str] = []
    content: dict[str, Any] = {}
    for variable in variables(path):
        if not variable.name:
            continue  # what Matlab keeps for its own objects
        found.append(variable.name)
        if names is None or variable.name in names:
            content[variable.name] = variable.value(wanted)
    return found, content


def _about(stream: _Stream) -> tuple[int, tuple[int, ...], str]:
    """Flags, shape and name of a matrix whose tag has been read."""
    flags = int(np.frombuffer(stream.element()[1], stream.order + "u4")[0])
    if flags & 0xFF == 17:  # an object of a class: has no shape
        return flags, (1, 1), stream.element()[1].decode("latin-1")
    shape = tuple(int(n) for n in np.frombuffer(stream.element()[1], stream.order + "i4"))
    if any(n < 0 for n in shape):
        raise ValueError(f"shape {shape}")
    return flags, shape, stream.element()[1].decode("latin-1")


def _matrix(stream: _Stream, place: Place, wanted: Wanted | None) -> Any:
    kind, size, filling = stream.tag()
    if kind != _MATRIX:
        raise ValueError(f"an element of type {kind} where a value should be")
    if size == 0:
        return np.zeros((0, 0))
    end = stream.at + size
    flags, shape, _ = _about(stream)
    value = _value(stream, flags, shape, place, wanted)
    if stream.at > end:
        raise ValueError("a value is longer than its place")
    stream.skip(end - stream.at + filling)
    return value


def _value(stream: _Stream, flags: int, shape: tuple[int, ...], place: Place, wanted: Wanted | None) -> Any:
    """Value of a matrix after its name. Of what is not understood nothing is read: the caller knows where it ends."""
    if len(place) > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    kind, count = flags & 0xFF, int(np.prod(shape, dtype=object))
    if kind == _CELL:
        return cell([_matrix(stream, (*place, k), wanted) for k in range(count)], shape)
    if kind == _STRUCT:
        length = int(np.frombuffer(stream.element()[1], stream.order + "i4")[0])
        letters = stream.element()[1]
        if length < 1:
            raise ValueError("names of fields without letters")
        fields = [letters[k : k + length].split(b"\0")[0].decode("latin-1") for k in range(0, len(letters), length)]
        if not fields and count > SMALL:
            raise ValueError(f"{count} structs without fields")
        items = []
        for k in range(count):
            here = place if count == 1 else (*place, k)
            items.append({field: _matrix(stream, (*here, field), wanted) for field in fields})
        return struct(items, shape)
    if kind == _CHAR:
        return _text(stream, shape)
    if kind not in _CLASSES:
        return None
    if count > SMALL and wanted is not None and not wanted(place):
        return Left(shape)
    values = _numbers(stream, shape)
    if flags & _COMPLEX:
        return values + 1j * _numbers(stream, shape)
    return values.astype(bool if flags & _LOGICAL else _CLASSES[kind], copy=False)


def _numbers(stream: _Stream, shape: tuple[int, ...]) -> NDArray[Any]:
    kind, data = stream.element()
    if kind not in _NUMBERS:
        raise ValueError(f"numbers of type {kind}")
    values = np.frombuffer(data, stream.order + _NUMBERS[kind])
    return values.astype(values.dtype.newbyteorder("="), copy=False).reshape(shape, order="F")


def _text(stream: _Stream, shape: tuple[int, ...]) -> Any:
    if 0 in shape:
        return ""
    kind, data = stream.element()
    if kind == 4:  # 16-bit letters
        letters = "".join(map(chr, np.frombuffer(data, stream.order + "u2")))
    else:
        name = _LETTERS.get(kind)
        if name is None:
            raise ValueError(f"letters of type {kind}")
        letters = data.decode(name if kind < 17 else name + ("-le" if stream.order == "<" else "-be"), "replace")
    rows = shape[0]
    if rows > len(letters):
        raise ValueError(f"{len(letters)} letters in {rows} rows")
    return text([letters[k::rows] for k in range(rows)])
