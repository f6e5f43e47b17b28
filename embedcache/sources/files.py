"""Input files as the command line names them: attached columns, compression, and errors that say file and line."""

from __future__ import annotations

import difflib
import gzip
import re
import shutil
import sys
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

from embedcache.errors import InputError
from embedcache.sources.cells import READ_TODAY, cell_format

STDIN = "-"
BOM = b"\xef\xbb\xbf"
HEAD_BYTES = 65_536
GZIP = b"\x1f\x8b"
GZIP_EXTENSIONS = (".gz", ".bgz", ".bgzf")
OTHER_CONTAINERS = {
    b"BZh": "bzip2 (unpack it with bunzip2)",
    b"\xfd7zXZ\x00": "xz (unpack it with unxz)",
    b"\x28\xb5\x2f\xfd": "zstd (unpack it with zstd -d)",
    b"PK\x03\x04": "zip, as of an Excel sheet or a .pt file (unpack it, or save it as CSV)",
    b"\x89HDF": "HDF5, as of .h5 (export its table as CSV or parquet)",
}
NO_INPUT = (".npy", ".loom")
# FILE:name=value,name=value, where a name holds no separator, so that the colons of C:\reads.fa and chr1:5 are safe.
ATTACHED = re.compile(r"(?P<path>.+?):(?P<columns>[^:=,/\\]+=[^,]*(?:,[^=,]+=[^,]*)*)", re.DOTALL)


@dataclass(frozen=True)
class InputFile:
    """One file to read; `name` is what the user gave, `attached` the columns given with it."""

    name: str
    path: Path
    attached: tuple[tuple[str, str], ...]
    gzipped: bool

    @property
    def extension(self) -> str:
        """The extension below .gz, in lower case: ``.fa`` of reads.fa.gz."""
        suffixes = [suffix.lower() for suffix in Path(self.name).suffixes]
        return next((suffix for suffix in reversed(suffixes) if suffix not in GZIP_EXTENSIONS), "")

    @property
    def size(self) -> int:
        """Bytes on disk, of a folder those of all files in it."""
        files = self.path.rglob("*") if self.path.is_dir() else (self.path,)
        return sum(file.stat().st_size for file in files if file.is_file())

    def error(self, what: str, place: int | str | None = None) -> InputError:
        """Return the error that says `what` is wrong in this file, at a line counted from 1 or another place."""
        where = f", line {place}" if isinstance(place, int) else f", {place}" if place else ""
        return InputError(f"{self.name}{where}: {what}")

    @contextmanager
    def reading(self) -> Iterator[BinaryIO]:
        """Open the unpacked bytes after any byte order mark; a damaged or cut gzip becomes an InputError with its line.

        Compression is told from the first bytes, not from the name; bgzip is read as the gzip members it consists of.
        """
        try:
            with self._open() as stream:
                if stream.read(len(BOM)) != BOM:
                    stream.seek(0)
                yield stream
        except EOFError as error:
            raise self._broken("the gzip data ends here, in the middle: the file was cut off") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise self._broken(f"the gzip data is damaged ({error})") from error
        except OSError as error:
            raise self._broken(f"the file cannot be read any further ({error})") from error

    @cached_property
    def head(self) -> tuple[int, bytes]:
        """The number of the first line that is not blank, and up to 64 KB of text from there on (none: b"")."""
        line = 1
        with self.reading() as stream:
            while text := stream.read(HEAD_BYTES):
                kept = text.lstrip()
                line += text[: len(text) - len(kept)].count(b"\n")
                if kept:
                    return line, kept
        return line, b""

    def _open(self) -> BinaryIO:
        # zlib at 360 MB/s does not hold up an encoder; isal (720 MB/s) has other errors on every platform
        return cast(BinaryIO, gzip.open(self.path)) if self.gzipped else self.path.open("rb")

    def _broken(self, what: str) -> InputError:
        """Read line by line as far as it goes, to say how far that is."""
        line = 0
        try:
            with self._open() as stream:
                for line, _ in enumerate(stream, 1):  # noqa: B007
                    pass
        except (EOFError, OSError, zlib.error):
            pass
        return self.error(f"{what}; copy or download it again", line)


def input_file(text: str, *, attach: bool = True) -> InputFile:
    """Return the file or store that `text` names, ``-`` for standard input, with `attach` also ``FILE:name=value,...``.

    Raises
    ------
    InputError
        The file does not exist (close names in its folder are shown), is a folder but no store and without cells, cannot be
        opened, is packed with anything but gzip, or a column is attached twice.
    """
    name, attached = split_attached(text) if attach else (text, ())
    if name == STDIN:
        return _spooled("standard input", sys.stdin.buffer, attached)
    path = Path(name)
    if is_store(path):
        return InputFile(name, path, attached, gzipped=False)
    if path.is_dir():
        if attach and cell_format(path) is not None:
            return InputFile(name, path, attached, gzipped=False)
        raise InputError(f"{name} is a folder; give the files in it, for example {path / '*.fa'}")
    try:
        with path.open("rb") as stream:
            if not path.is_file():  # a pipe such as <(zcat reads.fa.gz) can be read only once
                return _spooled(name, stream, attached)
            magic = stream.read(8)
    except FileNotFoundError:
        raise InputError(f"{name} does not exist; {_way_out(path)}") from None
    except OSError as error:
        raise InputError(f"{name} cannot be opened: {error.strerror}") from error
    return _checked(InputFile(name, path, attached, magic.startswith(GZIP)), magic)


def is_store(path: Path) -> bool:
    """Whether a folder is a Zarr group, as every store is, and no AnnData; whether it is a whole store, its reader says."""
    return (path / "zarr.json").is_file() and cell_format(path) is None


def container(text: str) -> InputFile:
    """Return the file that `text` names, ``FILE:name=value,...`` too, whatever kind it is; it must be a file on disk, or the
    folder of an AnnData.

    Raises
    ------
    InputError
        It does not exist, is a store, another folder or a pipe, or cannot be opened.
    """
    name, attached = split_attached(text)
    path = Path(name)
    if is_store(path):
        raise InputError(f"{name} is a store already; `embedcache concat` and `merge` put stores together")
    if (path / "obs").is_dir():
        return InputFile(name, path, attached, gzipped=False)
    if path.is_dir():
        raise InputError(f"{name} is a folder; give the files in it")
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise InputError(f"{name} does not exist; {_way_out(path)}") from None
    except OSError as error:
        raise InputError(f"{name} cannot be opened: {error.strerror}") from error
    if not path.is_file():
        raise InputError(f"{name} is no file that can be read at any place: save it to one first")
    return InputFile(name, path, attached, gzipped=False)


def split_attached(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Cut ``FILE:name=value,...`` into the file and the columns attached to it; raises `InputError` for one given twice."""
    match = ATTACHED.fullmatch(text)
    if match is None or Path(text).exists():
        return text, ()
    pairs = [column.split("=", 1) for column in match["columns"].split(",")]
    attached = tuple((name.strip(), value.strip()) for name, value in pairs)
    if len(dict(attached)) < len(attached):
        raise InputError(f"{text} attaches a column twice; give each name once, as in FILE:label=1,group=a")
    return match["path"], attached


def _spooled(name: str, stream: BinaryIO, attached: tuple[tuple[str, str], ...]) -> InputFile:
    """Copy a stream that can be read once to a temporary file, which lives as long as the returned object."""
    with tempfile.NamedTemporaryFile(prefix="embedcache-", delete=False) as copy:
        path = Path(copy.name)
        try:
            shutil.copyfileobj(stream, copy, 1 << 20)
        except BaseException as error:
            path.unlink()
            if isinstance(error, OSError):
                reason = f"{name} cannot be copied to {path.parent} ({error.strerror})"
                raise InputError(f"{reason}; set TMPDIR to a folder with space") from error
            raise
    with path.open("rb") as spooled:
        magic = spooled.read(8)
    file = InputFile(name, path, attached, magic.startswith(GZIP))
    weakref.finalize(file, path.unlink, missing_ok=True)
    return _checked(file, magic)


def _checked(file: InputFile, magic: bytes) -> InputFile:
    if file.extension in NO_INPUT:
        raise file.error(f"{file.extension} files are not read; {READ_TODAY}")
    if cell_format(file.path, file.name) is not None:
        return file
    if file.gzipped and file.extension in (".h5ad", ".h5", ".npz"):
        raise file.error(f"{file.extension} inside gzip cannot be read in pieces; unpack it with gunzip")
    for start, container in OTHER_CONTAINERS.items():
        if magic.startswith(start):
            raise file.error(f"this is {container}; plain, gzip and bgzip files are read")
    return file


def _way_out(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"neither does the folder {path.parent}"
    close = difflib.get_close_matches(path.name, names, n=3)
    hint = "; columns are attached as FILE:name=value" if ":" in path.name else ""
    return (f"did you mean {' or '.join(close)}?" if close else "check the path") + hint


def shown(line: bytes) -> str:
    """Return the beginning of a line for a message, what is not printable as escapes."""
    return repr(line[:40].decode("ascii", "backslashreplace"))
