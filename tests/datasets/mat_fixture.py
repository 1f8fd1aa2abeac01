"""Matlab files of version 7.3 as Matlab writes them: HDF5 with transposed arrays, cells as references."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.io import savemat


def write_mat(path: Path, content: Mapping[str, Any], version: str = "5") -> Path:
    """Write variables as version ``5`` or ``7.3``: arrays, object arrays (cells), dicts (structs), str, and object
    arrays of dicts (struct arrays)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if version == "5":
        savemat(path, {k: _v5(v) for k, v in content.items()}, do_compression=True)
        return path
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in content.items():
            _put(file, file, name, value)
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def cell(*items: Any, column: bool = False) -> np.ndarray:
    """Return a cell array (1, n), or (n, 1)."""
    made = np.empty(len(items), dtype=object)
    for k, item in enumerate(items):
        made[k] = item
    return made[:, None] if column else made[None]


def _is_struct_array(value: Any) -> bool:
    return (
        isinstance(value, np.ndarray) and value.dtype == object and value.size > 0 and isinstance(value.flat[0], dict)
    )


def _v5(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _v5(v) for k, v in value.items()}
    if _is_struct_array(value):
        made = np.empty(value.shape, dtype=[(k, object) for k in value.flat[0]])
        for index in np.ndindex(value.shape):
            for name, item in value[index].items():
                made[index][name] = _v5(item)
        return made
    if isinstance(value, np.ndarray) and value.dtype == object:
        made = np.empty(value.shape, dtype=object)
        for index in np.ndindex(value.shape):
            made[index] = _v5(value[index])
        return made
    return value


def _put(file: h5py.File, group: h5py.Group, name: str, value: Any) -> None:
    if isinstance(value, dict):
        made = group.create_group(name)
        made.attrs["MATLAB_class"] = np.bytes_("struct")
        for field, item in value.items():
            _put(file, made, field, item)
        return
    if _is_struct_array(value):
        made = group.create_group(name)
        made.attrs["MATLAB_class"] = np.bytes_("struct")
        for field in value.flat[0]:
            made.create_dataset(field, data=_references(file, [v[field] for v in value.flat], value.shape))
        return
    if isinstance(value, str):
        data = np.array([[ord(c)] for c in value], dtype=np.uint16)
        data = data if value else np.array([0, 0], dtype=np.uint64)
        kind, empty = "char", not value
    else:
        array = np.atleast_2d(np.asarray(value))
        empty = array.size == 0
        if array.dtype == object:
            kind = "cell"
            data = array.shape if empty else _references(file, list(array.flat), array.shape)
        else:
            kind = "logical" if array.dtype == bool else "double"
            data = array.T.astype(np.uint8 if array.dtype == bool else array.dtype)
        if empty:
            data = np.array(array.shape, dtype=np.uint64)
    made = group.create_dataset(name, data=data)
    made.attrs["MATLAB_class"] = np.bytes_(kind)
    if empty:
        made.attrs["MATLAB_empty"] = np.uint8(1)


def _references(file: h5py.File, items: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    store = file.require_group("#refs#")
    made = np.empty(len(items), dtype=h5py.ref_dtype)
    for k, item in enumerate(items):
        name = f"r{store.attrs.get('made', 0)}"
        store.attrs["made"] = store.attrs.get("made", 0) + 1  # before what is within, which takes the next names
        _put(file, store, name, item)
        made[k] = store[name].ref
    return made.reshape(shape).T
