"""FASTQ: plain, gzip or bgzip, four lines to a record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.counted import counted
from embedcache.errors import InputError
from embedcache.prefetch import prefetched
from embedcache.sources.batches import Fault, first_fault, is_text, letters_of, sliced
from embedcache.sources.files import InputFile, shown

EXTENSIONS = (".fq", ".fastq")
BLOCK_BYTES = 1 << 22
LINES = 4
NEWLINE, RETURN, BLANK = 10, 13, 32
FIRST_QUALITY, LAST_QUALITY = 33, 126
FOUR_LINES = "a record is four lines: @id, letters, + and qualities (seqtk seq makes four of many)"

Places = NDArray[np.int64]
_Scalar = TypeVar("_Scalar", bound=np.generic)


def _pair_errors() -> NDArray[np.float32]:
    """Sum of the error probabilities of two neighbouring bytes, (65,536,): 0 for a line end, NaN for what is no quality.

    A quality is a byte from 33 on (Sanger, Illumina 1.8); the probability of an error is 10^(-quality / 10).
    """
    errors = np.full(256, np.nan)
    errors[FIRST_QUALITY : LAST_QUALITY + 1] = 10.0 ** (-np.arange(LAST_QUALITY - FIRST_QUALITY + 1) / 10)
    errors[[NEWLINE, RETURN]] = 0
    return np.asarray(np.add.outer(errors, errors).ravel(), np.float32)


PAIR_ERRORS = _pair_errors()


class Fastq:
    """Records of one FASTQ file; the id is the first word of the header, the rest of the header is dropped.

    Columns: ``expected_errors``, the sum of the error probabilities of a read's letters (Edgar and Flyvbjerg 2015), and
    ``mean_quality``, the Phred score of their mean: -10 log10(expected_errors / letters). A record is four lines; blank
    lines are skipped before the first one. Reads of a pair keep their names: ``x/1`` and ``x/2``.

    Raises
    ------
    InputError
        On opening: the file is empty, or its first line is no header. While reading: a record that is cut off, without id,
        ``+`` or letters, with a byte that is no letter or no quality, or with more or fewer qualities than letters; or
        damaged gzip data; each with its line.
    """

    # dnaio makes an object of each record, and to make columns of those again takes seven times as long as its reading;
    # looking for line ends with numpy and copying with pyarrow takes three times as long as that on one core.

    schema = pa.schema([("mean_quality", pa.float32()), ("expected_errors", pa.float32())])
    text = False

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self._first_line, text = file.head
        if not text:
            raise file.error("the file is empty", 1)
        if not text.startswith(b"@"):
            found = shown(text.splitlines()[0])
            raise file.error(f"no FASTQ header: expected a line that starts with '@', found {found}", self._first_line)
        self._scratch = _Scratch()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read all records in batches of at most 16,384 records and 64 MB of letters, four megabytes ahead."""
        with prefetched(self._pieces()) as pieces:
            for piece in pieces:
                yield from sliced(self._batch(piece))

    def places(self) -> Iterator[str]:
        """Say for record after record the line of its header."""
        for piece in self._pieces():
            yield from (f"line {piece.line + LINES * row}" for row in range(len(piece)))

    def _pieces(self) -> Iterator[_Piece]:
        """Yield the records some thousands at a time; raises where the last one is cut off."""
        line, rest, scratch = self._first_line, np.empty(0, np.uint8), _Scratch()
        with self.file.reading() as stream:
            for _ in range(line - 1):
                stream.readline()
            while len(block := _read(stream, rest)) > len(rest):
                piece = _Piece.of(block, line, scratch)
                if len(piece):
                    yield piece
                line, rest = line + LINES * len(piece), block[piece.size :]
        if rest.tobytes().strip():
            ended = rest if rest[-1] == NEWLINE else np.append(rest, np.uint8(NEWLINE))
            piece = _Piece.of(ended, line, scratch)
            if not len(piece):
                raise self._malformed(piece, 0)
            yield piece

    def _batch(self, piece: _Piece) -> pa.RecordBatch:
        """Make columns of a piece; raises for its first fault."""
        rows = piece.well_formed()
        starts_N4, stops_N4, text = piece.starts[:rows], piece.stops[:rows], pa.py_buffer(piece.text)
        ids = _runs(pa.large_binary(), text, starts_N4[:, 0] + 1, piece.id_stops[:rows])
        sequences = _runs(pa.large_string(), text, starts_N4[:, 1], stops_N4[:, 1])
        lengths = stops_N4[:, 1] - starts_N4[:, 1]
        self._check(piece, ids, sequences, lengths)
        # where the number of qualities is odd the line end goes with them, so that all can be looked up in pairs
        qualities = _runs(pa.large_binary(), text, starts_N4[:, 3], stops_N4[:, 3] + lengths % 2)
        expected = _expected_errors(qualities, self._scratch)
        if np.isnan(expected).any():
            raise self._no_quality(piece, int(np.isnan(expected).argmax()))
        if rows < len(piece):
            raise self._malformed(piece, rows)
        mean = -10 * np.log10(expected / lengths)
        columns = [self._texts(piece, ids), sequences, pa.array(mean, pa.float32()), pa.array(expected)]
        return pa.record_batch(columns, ["id", "sequence", *self.schema.names])

    def _check(self, piece: _Piece, ids: pa.Array, sequences: pa.Array, lengths: Places) -> None:
        """Raise for the first record without id or letters, or with a byte among them that is none."""
        _, letters = letters_of(sequences)
        lowered = np.bitwise_or(letters, 32, out=self._scratch.of(np.uint8, len(letters)))
        lowered -= ord("a")
        doubtful = lowered.max(initial=0) > 25 or not lengths.all()  # a quarter of the time of first_fault
        fault = first_fault(ids, sequences if doubtful else None)
        if fault is None:
            return
        name, line = piece.name(fault.row), piece.line + LINES * fault.row
        if fault.column == "id":
            raise self.file.error("the header has no id; write one after the '@', such as @read_1", line)
        if fault.junk is None:
            raise self.file.error(f"{name!r} has no sequence; leave such reads out (cutadapt -m 1)", line + 1)
        what = f"{fault.found} in the sequence of {name!r}; a sequence holds letters, '*', '-' and '.' only"
        raise self.file.error(what, line + 1)

    def _texts(self, piece: _Piece, ids: pa.Array) -> pa.Array:
        try:
            return ids.cast(pa.large_string()).cast(pa.string())
        except pa.ArrowInvalid:
            row = next(row for row, name in enumerate(ids.to_pylist()) if not is_text(name))
            raise self.file.error(
                f"the id {ids[row].as_py()!r} is not text (UTF-8)", piece.line + LINES * row
            ) from None

    def _no_quality(self, piece: _Piece, row: int) -> InputError:
        junk = next(byte for byte in piece.lines(row)[3] if not FIRST_QUALITY <= byte <= LAST_QUALITY)
        found = Fault(row, "sequence", junk).found
        what = f"{found} among the qualities of {piece.name(row)!r}; qualities are the characters from '!' to '~'"
        return self.file.error(what, piece.line + LINES * row + 3)

    def _malformed(self, piece: _Piece, row: int) -> InputError:
        """Say what is wrong with the lines of a record."""
        lines, line, name = piece.lines(row), piece.line + LINES * row, piece.name(row)
        if not lines[0].startswith(b"@"):
            return self.file.error(
                f"expected a header that starts with '@', found {shown(lines[0])}; {FOUR_LINES}", line
            )
        if len(lines) > 2 and not lines[2].startswith(b"+"):
            what = f"expected '+' after the letters of {name!r}, found {shown(lines[2])}; {FOUR_LINES}"
            return self.file.error(what, line + 2)
        if len(lines) < LINES:
            what = f"the file ends in the middle of {name!r}: it was cut off; copy or download it again"
            return self.file.error(what, line + len(lines) - 1)
        if len(lines[1]) != len(lines[3]):
            letters, qualities = counted(len(lines[1]), "letter"), counted(len(lines[3]), "quality", "qualities")
            what = f"{name!r} has {letters} and {qualities}; {FOUR_LINES}"
            return self.file.error(what, line + 3)
        return self.file.error(f"a blank among the qualities of {name!r}; {FOUR_LINES}", line + 3)


@dataclass(frozen=True)
class _Piece:
    """Text that begins with N whole records, and where their lines are."""

    text: NDArray[np.uint8]
    line: int
    """Of the first header."""
    ends_N4: Places
    """Where the line ends of the records are."""
    id_stops: Places
    """(N,) where the first word of each header ends."""
    blanks_N4: Places
    """Blanks and control characters of each line, its line end included."""

    @classmethod
    def of(cls, text: NDArray[np.uint8], line: int, scratch: _Scratch) -> _Piece:
        """Find the lines of a text."""
        blanks = np.flatnonzero(np.less_equal(text, BLANK, out=scratch.of(np.bool_, len(text))))
        which = np.flatnonzero(text[blanks] == NEWLINE)
        which = which[: len(which) - len(which) % LINES]
        first = np.append(0, which[LINES - 1 :: LINES] + 1)[: len(which) // LINES]
        counts_N4 = np.diff(which, prepend=-1).reshape(-1, LINES)
        return cls(text, line, blanks[which].reshape(-1, LINES), blanks[first], counts_N4)

    def __len__(self) -> int:
        return len(self.ends_N4)

    @property
    def size(self) -> int:
        """Bytes of the whole records."""
        return int(self.ends_N4[-1, -1]) + 1 if len(self) else 0

    @cached_property
    def starts(self) -> Places:
        """Where each line begins, (N, 4)."""
        starts_N4 = np.zeros_like(self.ends_N4)
        np.add(self.ends_N4.ravel()[:-1], 1, out=starts_N4.ravel()[1:])
        return starts_N4

    @cached_property
    def returns(self) -> NDArray[np.bool_]:
        """Which lines end in CR LF, (N, 4)."""
        return np.equal(self.text[self.ends_N4 - 1], RETURN)

    @cached_property
    def stops(self) -> Places:
        """Where each line ends, without CR and LF, (N, 4)."""
        return self.ends_N4 - self.returns

    def well_formed(self) -> int:
        """How many records stand before the first whose lines are not those of FASTQ."""
        starts_N4, stops_N4 = self.starts, self.stops
        right = self.text[starts_N4[:, 0]] == ord("@")
        right &= self.text[starts_N4[:, 2]] == ord("+")
        right &= stops_N4[:, 1] - starts_N4[:, 1] == stops_N4[:, 3] - starts_N4[:, 3]
        right &= self.blanks_N4[:, 3] - self.returns[:, 3] == 1
        return len(right) if right.all() else int(right.argmin())

    def lines(self, row: int) -> list[bytes]:
        """The lines of a record, or what there is of them."""
        start = int(self.ends_N4[row - 1, -1]) + 1 if row else 0
        stop = int(self.ends_N4[row, -1]) if row < len(self) else len(self.text)
        text = self.text[start:stop].tobytes().removesuffix(b"\n")
        return [line.removesuffix(b"\r") for line in text.split(b"\n")]

    def name(self, row: int) -> str:
        """The id of a record."""
        return (self.lines(row)[0][1:].split(None, 1) or [b""])[0].decode("utf-8", "backslashreplace")


class _Scratch:
    """Memory for what is needed for a moment, kept: new pages for each block would cost as much as the work on them."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def of(self, kind: type[_Scalar], length: int) -> NDArray[_Scalar]:
        """Borrow an array (length,) of any content until the next one is borrowed."""
        size = length * np.dtype(kind).itemsize
        if len(self._bytes) < size:
            self._bytes = np.empty(size, np.uint8)
        return self._bytes[:size].view(kind)


def _read(stream: BinaryIO, rest: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Read a block behind what is left of the last one; as much again for reads longer than a block."""
    block = np.empty(len(rest) + max(BLOCK_BYTES, len(rest)), np.uint8)
    block[: len(rest)] = rest
    return block[: len(rest) + stream.readinto(block[len(rest) :])]  # type: ignore[attr-defined]


def _runs(kind: pa.DataType, text: pa.Buffer, starts: Places, stops: Places) -> pa.Array:
    """Copy runs of a text (n,) into an array of a type with 64-bit offsets."""
    bounds = np.empty(2 * len(starts) + 1, np.int64)  # every other element is what lies between two runs
    bounds[:-1:2], bounds[1::2] = starts, stops
    bounds[-1] = stops[-1] if len(stops) else 0
    array = pa.Array.from_buffers(kind, len(bounds) - 1, [None, pa.py_buffer(bounds), text])
    return array.take(pa.array(np.arange(0, len(bounds) - 1, 2)))


def _expected_errors(qualities: pa.Array, scratch: _Scratch) -> NDArray[np.float32]:
    """Add up the errors of runs of qualities (n,), each of an even number of bytes, none empty."""
    offsets, codes = letters_of(qualities)
    pairs = codes.view(np.uint16)
    errors = PAIR_ERRORS.take(pairs, mode="clip", out=scratch.of(np.float32, len(pairs)))
    return np.add.reduceat(errors, offsets[:-1] // 2) if len(pairs) else errors.copy()
