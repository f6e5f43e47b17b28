"""Files that a reader has to jump about in: as they are where they can be, else unpacked to a temporary copy."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import weakref
from pathlib import Path

from embedcache.errors import InputError
from embedcache.sources.files import BOM, InputFile

_EXTRA_FIELD = slice(12, 14)
"""Of a gzip header; that of bgzip says BC there."""


class Seekable:
    """A file whose every place can be read: plain or bgzip, without a byte order mark.

    Of any other gzip file a copy is unpacked, into a temporary folder that goes with this object.
    """

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self.path = file.path
        self.remarks: list[str] = []
        self._folder: Path | None = None
        with file.path.open("rb") as stream:
            bgzipped = stream.read(16)[_EXTRA_FIELD] == b"BC"
        if (file.gzipped and not bgzipped) or self._is_marked():
            self.path = self._unpacked()
            what = "begins with a byte order mark" if bgzipped or not file.gzipped else "is not bgzip"
            self.remarks.append(f"         {file.name} {what} and is unpacked to {self.path} for this run")

    @property
    def folder(self) -> Path:
        """A temporary folder that goes with this object."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="embedcache-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def _is_marked(self) -> bool:
        try:
            with gzip.open(self.file.path) if self.file.gzipped else self.file.path.open("rb") as stream:
                return stream.read(len(BOM)) == BOM
        except EOFError:
            return False  # it is said with its line when the file is read

    def _unpacked(self) -> Path:
        copy = self.folder / "unpacked"
        with self.file.reading() as packed:
            try:
                with copy.open("wb") as plain:
                    while block := packed.read(1 << 22):
                        plain.write(block)
            except OSError as error:
                if error.errno is None:  # of the packed file, which says more of it itself
                    raise
                raise InputError(
                    f"{self.file.name} cannot be unpacked to {copy.parent} ({error.strerror}): set TMPDIR to a folder with "
                    "space, or pack it with bgzip"
                ) from None
        return copy
