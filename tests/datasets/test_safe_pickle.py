"""Nothing in a pickle may run; everything numpy writes as numbers must come back as it was."""

from __future__ import annotations

import builtins
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from milmer.datasets.safe_pickle import ends_whole, load_array, load_arrays
from milmer.errors import UserError


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.function, self.args, self.state = function, args, state

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.function, self.args) if self.state is None else (self.function, self.args, self.state)


def write(path: Path, value: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_arrays(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", ">i2", "u1", "?"])
def test_arrays_come_back_in_every_protocol(tmp_path: Path, protocol: int, dtype: str) -> None:
    wanted = (np.arange(24).reshape(2, 3, 4) % 7).astype(dtype)
    given_ = {"data": wanted, "fortran": np.asfortranarray(wanted), "empty": wanted[:0]}
    found = load_arrays(write(tmp_path / "a.dat", given_, protocol))
    assert set(found) == set(given_)
    for name, array in found.items():
        assert np.array_equal(array, given_[name])
        assert array.dtype == wanted.dtype
        assert array.shape == given_[name].shape


def test_python_2_layout(tmp_path: Path) -> None:
    """Bytes as cPickle of Python 2 wrote them: byte strings for names and for the numbers."""
    raw = np.array([[1.5, -2.0]]).tobytes()
    text = b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    text += b"(K\x01K\x01K\x02\x86cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R"
    text += b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(raw)]) + raw + b"tbs."
    path = tmp_path / "s01.dat"
    path.write_bytes(text)
    found = load_arrays(path)
    assert found["data"].tolist() == [[1.5, -2.0]]


@settings(max_examples=50, deadline=None)
@given(array=hnp.arrays(st.sampled_from(["f8", "f4", "i8", "u2"]), hnp.array_shapes(min_dims=0, min_side=0)))
def test_any_numeric_array(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("p") / "a.dat"
    found = load_arrays(write(path, {"x": np.asarray(array)}))["x"]
    assert np.array_equal(found, array, equal_nan=True)
    assert not found.flags.writeable


def _marks(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("how", ["os.system", "eval", "exec", "getattr", "import", "open"])
def test_code_never_runs(tmp_path: Path, how: str, protocol: int) -> None:
    mark = tmp_path / "ran"
    call = {
        "os.system": Call(os.system, f"touch {mark}"),
        "eval": Call(builtins.eval, _marks(mark)),
        "exec": Call(builtins.exec, _marks(mark)),
        "getattr": Call(builtins.getattr, np.ndarray, "tofile"),
        "import": Call(builtins.__import__, "this"),
        "open": Call(builtins.open, str(mark), "w"),
    }[how]
    # A good array first: what comes before the bad part must not open a way.
    path = write(tmp_path / "s01.dat", {"labels": np.ones(3), "data": call}, protocol)
    assert "nothing of it was run" in refusal(path)
    assert not mark.exists()


def _global(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (_global("os", "system") + b"(S'true'\ntR.", "os.system"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),
        (_global("_codecs", "decode") + b"(S'61'\nS'hex'\ntR.", "_codecs.decode"),
        (_global("_codecs", "lookup") + b"(S'hex'\ntR.", "_codecs.lookup"),
        (b"\x80\x04\x8c\x05numpy\x8c\x11core.os.path.join\x93.", "numpy.core.os.path.join"),
        (b"\x80\x04\x8c\x07_codecs\x8c\x10encode.__class__\x93.", "_codecs.encode.__class__"),
        (_global("numpy", "load") + b"(S'x'\ntR.", "numpy.load"),
        (_global("numpy.core.multiarray", "fromfile") + b".", "numpy.core.multiarray.fromfile"),
        (_global("copyreg", "_reconstructor") + b".", "copyreg._reconstructor"),
        # other encodings than the one that carries bytes, and odd arguments
        (_global("_codecs", "encode") + b"(Vabc\nS'rot13'\ntR.", "_codecs.encode"),
        (_global("_codecs", "encode") + b"(Vabc\ntR.", "_codecs.encode"),
        # changing what the reader itself uses: BUILD on an admitted name, with a dict and with slots
        (_global("_codecs", "encode") + b"}S'_make'\nNsb.", "an attempt to change"),
        (_global("numpy", "dtype") + b"N}S'_make'\nNs\x86b.", "an attempt to change"),
        # a class called for itself, a subclass asked for
        (_global("numpy", "ndarray") + b"(K\x02tR.", "numpy.ndarray"),
        (_global("numpy.core.multiarray", "_reconstruct") + _global("numpy", "dtype") + b"K\0\x85U\1b\x87R.", "class"),
        (_global("__builtin__", "bytes") + b"(K\x10tR.", "bytes"),
    ],
)
def test_every_other_name_is_refused(tmp_path: Path, body: bytes, named: str) -> None:
    path = tmp_path / "s01.dat"
    path.write_bytes(body)
    message = refusal(path)
    assert named in message
    assert "nothing of it was run" in message


@pytest.mark.parametrize(
    "value",
    [
        np.array([1, "a", None], dtype=object),
        np.zeros(2, dtype=[("a", "f8"), ("b", "i4")]),
        np.zeros(2, dtype="V8"),
        np.array(["text"]),
        np.array([1 + 2j]),
        np.zeros(2, dtype="M8[s]"),
        np.ma.masked_array([1.0, 2.0], [True, False]),
    ],
    ids=["object", "record", "void", "text", "complex", "date", "masked"],
)
def test_arrays_of_anything_but_numbers_are_refused(tmp_path: Path, value: np.ndarray) -> None:
    assert "numpy arrays of numbers only" in refusal(write(tmp_path / "s01.dat", {"data": value}))


def test_shape_must_fit_the_bytes(tmp_path: Path) -> None:
    text = pickle.dumps({"data": np.zeros((2, 3))}, protocol=2)
    path = tmp_path / "s01.dat"
    path.write_bytes(text.replace(b"K\x02K\x03\x86", b"K\x02K\x63\x86"))
    assert "shape (2, 99)" in refusal(path)


def test_every_truncation_is_one_line(tmp_path: Path) -> None:
    text = pickle.dumps({"data": np.arange(40.0).reshape(5, 8), "labels": np.ones(4)}, protocol=2)
    path = tmp_path / "s01.dat"
    for length in range(len(text)):
        path.write_bytes(text[:length])
        refusal(path)
    assert "ends early" in refusal(path)
    path.write_bytes(text[: len(text) // 2])
    assert "ends early" in refusal(path)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_bytes_never_escape_as_other_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    text = bytearray(pickle.dumps({"data": np.arange(6.0)}, protocol=data.draw(st.sampled_from([0, 2, 4]))))
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 127))
    path = tmp_path_factory.mktemp("d") / "s01.dat"
    path.write_bytes(bytes(text))
    try:
        found = load_arrays(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(v, np.ndarray) and v.dtype.kind in "fiub" for v in found.values())


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (np.ones(3), "a pickled array"),
        ([np.ones(3)], "a pickled list"),
        ({"data": [1, 2]}, "list under b'data'"),
        ({1: np.ones(3)}, "under 1"),
        ({"data": np.float64(3)}, "float under"),
    ],
)
def test_wrong_content(tmp_path: Path, value: object, found: str) -> None:
    message = refusal(write(tmp_path / "s01.dat", value))
    assert found.replace("b'", "'") in message.replace("b'", "'")
    assert "expected a dict of numpy arrays" in message


def test_not_a_pickle_and_not_there(tmp_path: Path) -> None:
    path = tmp_path / "s01.dat"
    path.write_bytes(b"<html>please log in</html>")
    assert "no readable pickle" in refusal(path)
    path.write_bytes(b"")
    assert "ends early (at 0 bytes)" in refusal(path)
    assert "cannot be read" in refusal(tmp_path / "s02.dat")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_one_array_comes_back_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    wanted = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for value in (wanted, np.asfortranarray(wanted), wanted[:0]):
        path = write(tmp_path / "sub000.pkl", value, protocol)
        found = load_array(path)
        assert np.array_equal(found, value)
        assert found.dtype == value.dtype
        ends_whole(path)


def test_one_array_and_nothing_else(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for value, found in (
        ({"data": np.ones(3)}, "a pickled dict, expected one numpy array"),
        ([np.ones(3)], "a pickled list"),
        (np.array([1, "a"], dtype=object), "Python objects"),
        (Call(os.mkdir, str(marker)), "the name"),
    ):
        path = write(tmp_path / "sub000.pkl", value)
        with pytest.raises(UserError) as caught:
            load_array(path)
        assert found in str(caught.value)
        assert str(path) in str(caught.value)
    assert not marker.exists()


def test_a_cut_pickle_is_known_by_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "sub000.pkl", np.zeros(1000))
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:500], b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="ends early"):
            ends_whole(path)
    with pytest.raises(UserError, match="cannot be read"):
        ends_whole(tmp_path / "no.pkl")
