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

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError, nearest

_DEEPEST = 32  # structs in cells in structs ...: more than any study has, and a bound where references run in a circle


def read_mat(path: Path, names: Collection[str] | None = None) -> dict[str, Any]:
    """Read the variables of a Matlab file.

    Parameters
    ----------
    path : Path
        Version 5 (or 4) or 7.3.
    names : collection of str, optional
        The variables wanted, the others are not read; by default all.

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
        if _is_hdf5(path):
            found, content = _read_hdf5(path, names)
        else:
            found, content = _read_v5(path, names)
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
        Name -> Matlab's shape, in the file's order (version 5) or by name (7.3). Text of version 5 is counted in rows.

    Raises
    ------
    UserError
        If it is no Matlab file or is damaged.
    """
    with _reading(path):
        if not _is_hdf5(path):
            from scipy.io import whosmat

            return {str(name): tuple(int(n) for n in shape) for name, shape, _ in whosmat(path)}
        import h5py

        with h5py.File(path, "r") as file:
            return {name: _shape(_member(file, name)) for name in _visible(file)}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a Matlab file (.mat)")
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


def _read_v5(path: Path, names: Collection[str] | None) -> tuple[list[str], dict[str, Any]]:
    from scipy.io import loadmat

    # Some published files (AMIGOS) have compressed parts longer than they should be, with good values: scipy's check of
    # that is off. mat_dtype: doubles that Matlab stored as small integers come back as doubles, as 7.3 has them.
    options = {"mat_dtype": True, "verify_compressed_data_integrity": False}
    content = loadmat(path, variable_names=None if names is None else list(names), **options)
    read = {str(k): _from_v5(v) for k, v in content.items() if not k.startswith("__")}
    complete = names is None or set(names) <= set(read)
    return list(read) if complete else list(mat_variables(path)), read


def _from_v5(value: Any) -> Any:
    from scipy.io.matlab import MatlabFunction, MatlabOpaque

    if not isinstance(value, np.ndarray) or isinstance(value, MatlabFunction | MatlabOpaque):
        return None  # sparse arrays, functions, objects
    if value.dtype.names is not None:
        fields = value.dtype.names
        return _struct([{name: _from_v5(item[name]) for name in fields} for item in value.flat], value.shape)
    if value.dtype == object:
        return _cell([_from_v5(item) for item in value.flat], value.shape)
    if value.dtype.kind in "US":
        return _text([str(row) for row in value.flat])
    return value


def _read_hdf5(path: Path, names: Collection[str] | None) -> tuple[list[str], dict[str, Any]]:
    import h5py

    with h5py.File(path, "r") as file:
        found = _visible(file)
        wanted = [n for n in found if names is None or n in names]
        return found, {n: _from_hdf5(file, _member(file, n), 0) for n in wanted}


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


def _from_hdf5(file: Any, item: Any, depth: int) -> Any:
    import h5py

    if depth > _DEEPEST:
        raise ValueError(f"nested more than {_DEEPEST} deep")
    kind = _class(item)
    if isinstance(item, h5py.Group):
        if "MATLAB_sparse" in item.attrs or kind not in ("struct", ""):
            return None
        fields = [str(name) for name in item]
        if not _is_struct_array(item):
            return {name: _from_hdf5(file, _member(item, name), depth + 1) for name in fields}
        columns = {name: _followed(file, _member(item, name), depth + 1) for name in fields}
        shape = _shape(item)
        count = int(np.prod(shape))
        return _struct([{name: columns[name][k] for name in fields} for k in range(count)], shape)
    shape = _shape(item)
    if item.attrs.get("MATLAB_empty", 0):
        if kind == "char":
            return ""
        return np.zeros(shape, object if kind == "cell" else bool if kind == "logical" else float)
    if _is_references(item):
        return _cell(_followed(file, item, depth + 1), shape)
    if kind in ("function_handle", "FileWrapper__") or "MATLAB_object_decode" in item.attrs:
        return None
    values: NDArray[Any] = np.asarray(item[()]).T  # HDF5 has the axes in the other order
    if kind == "char":
        rows = values if values.ndim > 1 else values[None]  # (rows, letters)
        return _text(["".join(map(chr, row)) for row in rows.astype(np.int64)])
    if values.dtype.names is not None and set(values.dtype.names) == {"real", "imag"}:
        return values["real"] + 1j * values["imag"]
    return values.astype(bool) if kind == "logical" else values


def _followed(file: Any, item: Any, depth: int) -> list[Any]:
    """What the references of a dataset point to, in the order of the rows of Matlab's array."""
    references = np.asarray(item[()]).T
    return [_from_hdf5(file, file[reference], depth) if reference else None for reference in references.flat]


def _struct(items: list[dict[str, Any]], shape: tuple[int, ...]) -> Any:
    return items[0] if int(np.prod(shape)) == 1 else _cell(items, shape)


def _cell(items: list[Any], shape: tuple[int, ...]) -> NDArray[np.object_]:
    made = np.empty(len(items), dtype=object)
    for k, item in enumerate(items):  # one by one: numpy would make an array of arrays of one length
        made[k] = item
    return made.reshape(shape)


def _text(rows: list[str]) -> Any:
    if len(rows) < 2:
        return rows[0] if rows else ""
    return _cell(list(rows), (len(rows), 1))
