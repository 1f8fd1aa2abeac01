"""Matlab files, versions 5 and 7.3, read into the same plain values; nothing in a file is run.

A file of version 7.3 is HDF5 and holds every array transposed; here its arrays have Matlab's own shapes, as those of
version 5 have. What becomes of a Matlab value:

* numbers: an array of Matlab's shape and class (at least two axes; ``logical`` is bool);
* text: `str`; text of several rows: an object array (rows, 1) of `str`;
* a cell array: an object array of its shape;
* a struct: a dict; a struct array: an object array of its shape, of dicts;
* sparse arrays, functions and objects: None.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.datasets import mat5
from milmer.datasets.mat_values import DEEPEST, SMALL, Left, Place, Wanted, cell, struct, text
from milmer.errors import UserError, nearest

__all__ = ["Left", "Place", "Wanted", "mat_variables", "read_mat"]


def read_mat(path: Path, names: Collection[str] | None = None, wanted: Wanted | None = None) -> dict[str, Any]:
    """Read the variables of a Matlab file.

    Parameters
    ----------
    path : Path
        Version 5 or 7.3.
    names : collection of str, optional
        The variables wanted, the others are not read; by default all.
    wanted : callable, optional
        Called with the place of each array of more than 1000 numbers (``("DREAMER", "Data", 3, "EEG", "stimuli", 5)``:
        fields by name, cells by number from 0); where it returns False the array is not kept and a `Left` with its
        shape stands for it. So a part of a file needs no memory for the whole of it.

    Returns
    -------
    dict
        Name -> value; the module says what becomes of each Matlab class.

    Raises
    ------
    UserError
        If it is no Matlab file, is damaged, or lacks one of `names`.
    """
    with _reading(path):
        found, content = _read_hdf5(path, names, wanted) if _is_hdf5(path) else mat5.read(path, names, wanted)
    for name in names or ():
        if name not in content:
            raise UserError(
                f"{path}: has no variable {name}{nearest(name, found)}; found {', '.join(found[:8]) or 'none'}"
                f"{' ...' if len(found) > 8 else ''}; is it the right file, unchanged?"
            )
    return content


def mat_variables(path: Path) -> dict[str, tuple[int, ...]]:
    """List the variables of a Matlab file without reading them.

    Returns
    -------
    dict
        Name -> Matlab's shape, in the file's order (version 5) or by name (7.3).

    Raises
    ------
    UserError
        If it is no Matlab file or is damaged.
    """
    with _reading(path):
        if not _is_hdf5(path):
            return {v.name: v.shape for v in mat5.variables(path) if v.name}
        import h5py

        with h5py.File(path, "r") as file:
            return {name: _shape(_member(file, name)) for name in _visible(file)}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a Matlab file (.mat)")
    if not os.access(path, os.R_OK):  # HDF5 says this in a paragraph
        raise UserError(f"{path}: cannot be read (permission denied); check the path and its permissions")
    try:
        yield
    except UserError:
        raise
    # The readers raise whatever meets them in a damaged file; the user needs the file's name.
    except Exception as error:
        found = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: not readable as a Matlab file ({found}); get the file again") from error


def _is_hdf5(path: Path) -> bool:
    import h5py

    return bool(h5py.is_hdf5(path))


def _read_hdf5(path: Path, names: Collection[str] | None, wanted: Wanted | None) -> tuple[list[str], dict[str, Any]]:
    import h5py

    with h5py.File(path, "r") as file:
        found = _visible(file)
        chosen = [n for n in found if names is None or n in names]
        return found, {n: _from_hdf5(file, _member(file, n), (n,), wanted) for n in chosen}


def _visible(group: Any) -> list[str]:
    return [str(name) for name in group if not str(name).startswith("#")]  # #refs# holds what cells point to


def _member(group: Any, name: str) -> Any:
    import h5py

    if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
        raise ValueError(f"{name} is a link to another file")
    return group[name]


def _class(item: Any) -> str:
    kind = item.attrs.get("MATLAB_class", b"")
    return kind.decode("ascii", "replace") if isinstance(kind, bytes) else str(kind)


def _is_references(item: Any) -> bool:
    import h5py

    return isinstance(item, h5py.Dataset) and h5py.check_ref_dtype(item.dtype) is h5py.Reference


def _is_struct_array(group: Any) -> bool:
    # Fields of a struct array are references without a class of their own; a cell in a field of one struct has one.
    members = [_member(group, name) for name in group]
    return bool(members) and all(_is_references(m) and not _class(m) for m in members)


def _shape(item: Any) -> tuple[int, ...]:
    import h5py

    if isinstance(item, h5py.Group):
        if "MATLAB_sparse" in item.attrs or not _is_struct_array(item):
            return (1, 1)
        return _shape(_member(item, next(iter(item))))
    if item.attrs.get("MATLAB_empty", 0):
        return tuple(int(n) for n in np.ravel(item[()]))  # an empty array's values are its shape
    return tuple(int(n) for n in item.shape[::-1])


def _from_hdf5(file: Any, item: Any, place: Place, wanted: Wanted | None) -> Any:
    import h5py

    if len(place) > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    kind = _class(item)
    shape = _shape(item)
    if isinstance(item, h5py.Group):
        if "MATLAB_sparse" in item.attrs or kind not in ("struct", ""):
            return None
        fields = [str(name) for name in item]
        if not _is_struct_array(item):
            return {name: _from_hdf5(file, _member(item, name), (*place, name), wanted) for name in fields}
        columns = {name: _references(_member(item, name)) for name in fields}
        count = int(np.prod(shape))
        items = [
            {name: _followed(file, columns[name][k], (*place, k, name), wanted) for name in fields}
            for k in range(count)
        ]
        return struct(items, shape)
    if item.attrs.get("MATLAB_empty", 0):
        if kind == "char":
            return ""
        return np.zeros(shape, object if kind == "cell" else bool if kind == "logical" else float)
    if _is_references(item):
        found = [_followed(file, r, (*place, k), wanted) for k, r in enumerate(_references(item))]
        return cell(found, shape)
    if kind in ("function_handle", "FileWrapper__") or "MATLAB_object_decode" in item.attrs:
        return None
    if kind != "char" and int(np.prod(shape)) > SMALL and wanted is not None and not wanted(place):
        return Left(shape)
    values: NDArray[Any] = np.asarray(item[()]).T  # HDF5 has the axes in the other order
    if kind == "char":
        rows = values if values.ndim > 1 else values[None]  # (rows, letters)
        return text(["".join(map(chr, row)) for row in rows.astype(np.int64)])
    if values.dtype.names is not None and set(values.dtype.names) == {"real", "imag"}:
        return values["real"] + 1j * values["imag"]
    return values.astype(bool) if kind == "logical" else values


def _references(item: Any) -> list[Any]:
    """References of a dataset, in Matlab's order."""
    return list(np.asarray(item[()]).ravel())  # HDF5 runs through the last axis first, which is Matlab's first


def _followed(file: Any, reference: Any, place: Place, wanted: Wanted | None) -> Any:
    return _from_hdf5(file, file[reference], place, wanted) if reference else None
