"""Pickles of plain values: dicts, lists, tuples, strings, numbers and None; whatever else a pickle asks for is refused.

A pickle runs code by naming a function and having it called. Here no name leads to a function of Python or numpy. The three
that numpy writes for one number (`scalar`, `dtype`, and `encode` for its bytes) lead to objects of this file, which make a
Python number of four or eight bytes and can do nothing else; they have no attributes that a pickle could set.
"""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path

from embedcache.errors import InputError

MOST_BYTES = 1 << 28
"""The published dictionaries have two megabytes at most."""

_FORMATS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "u8": "Q", "u4": "I", "u2": "H"}


class _NumberType:
    """What stands for a numpy dtype: only its struct format."""

    __slots__ = ("format", "order")

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or code not in _FORMATS:
            raise pickle.UnpicklingError(f"numpy values of the type {str(code)[:40]!r}")
        self.format, self.order = _FORMATS[code], "<"

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError("a numpy type that is no plain number")
        self.order = ">" if state[1] == ">" else "<"


class _MakeType:
    __slots__ = ()

    def __call__(self, code: object, *_: object) -> _NumberType:
        return _NumberType(code)


class _MakeNumber:
    __slots__ = ()

    def __call__(self, kind: object, content: object) -> float | int:
        if not isinstance(kind, _NumberType) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("a numpy value that is no plain number")
        (number,) = struct.unpack(kind.order + kind.format, content)
        if not isinstance(number, (int, float)):
            raise pickle.UnpicklingError("a numpy value that is no plain number")
        return number


class _MakeBytes:
    __slots__ = ()

    def __call__(self, text: object, encoding: object) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("bytes in another encoding than latin1")
        return text.encode("latin-1")


_ADMITTED = {
    ("numpy", "dtype"): _MakeType(),
    ("numpy.core.multiarray", "scalar"): _MakeNumber(),
    ("numpy._core.multiarray", "scalar"): _MakeNumber(),
    ("_codecs", "encode"): _MakeBytes(),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}"[:80]) from None


def read_plain_pickle(path: str | Path) -> object:
    """Read a pickle of plain values; nothing that it names is imported or called.

    Raises
    ------
    InputError : the file cannot be read, is no pickle, is cut off, or asks for anything but plain values.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise InputError(f"{path} has {len(content):,} bytes, far more than a dictionary of genes: name another file")
    try:
        return _PlainUnpickler(io.BytesIO(content)).load()
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is no pickle of plain values ({error}), and nothing else is read from pickles: save the dictionary "
            "as JSON, or as a table with two columns"
        ) from error
    except Exception as error:  # a damaged pickle fails in many ways, none of which runs anything
        reason = str(error) or type(error).__name__
        raise InputError(f"{path} is a damaged pickle ({reason[:80]}): copy or download it again") from error
