"""One repository's folder in the cache of huggingface_hub, which transformers and the `hf` command share.

    models--OWNER--NAME/blobs/DIGEST             content, named by its sha256 (LFS) or git sha1; DIGEST.incomplete grows
    models--OWNER--NAME/snapshots/COMMIT/FILE    links to blobs: what users of the cache read
    models--OWNER--NAME/refs/main                the commit a branch stood at when it was last fetched whole
    models--OWNER--NAME/embedcache/COMMIT.json   the files of that commit, with sizes and digests (ours)

The first three are laid out as https://huggingface.co/docs/huggingface_hub/guides/manage-cache describes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository as the hub lists it."""

    path: str
    size: int
    digest: str
    """sha256 of an LFS file, git's sha1 of any other: also the name of its blob in the cache."""


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit."""

    commit: str
    files: dict[str, RemoteFile]
    published: bool = True
    """False where only the cache could be listed, so that files may be missing."""

    def inside(self, folder: str) -> dict[str, RemoteFile]:
        """Return the files of one folder ("" is the top) by their names in it."""
        start = f"{folder}/" if folder else ""
        return {path.removeprefix(start): file for path, file in self.files.items() if path.startswith(start)}


@dataclass(frozen=True)
class RepoCache:
    """One repository's folder in the hub's cache: where each thing lies, what is there, and how it gets a name."""

    root: Path
    repo: str

    @property
    def folder(self) -> Path:
        return self.root / ("models--" + self.repo.replace("/", "--"))

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / (commit or "none")

    def blob(self, file: RemoteFile) -> Path:
        return self.folder / "blobs" / file.digest

    def partial(self, file: RemoteFile) -> Path:
        return self.folder / "blobs" / f"{file.digest}.incomplete"

    def lock(self, file: RemoteFile) -> Path:
        """The lock that huggingface_hub takes for the same blob."""
        return self.root / ".locks" / self.folder.name / f"{file.digest}.lock"

    def known_commit(self, revision: str) -> str:
        """Return the commit that a revision last stood at, "" where the cache does not know it."""
        if _COMMIT.fullmatch(revision):
            return revision
        try:
            commit = (self.folder / "refs" / revision).read_text().strip()
        except OSError:
            return ""
        return commit if _COMMIT.fullmatch(commit) else ""

    def saved_listing(self, commit: str) -> Listing | None:
        try:
            rows = json.loads((self.folder / "embedcache" / f"{commit}.json").read_bytes())
            return Listing(commit, {row["path"]: RemoteFile(**row) for row in rows})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def found_listing(self, commit: str) -> Listing:
        """List what lies in a snapshot that another program has made."""
        top = self.snapshot(commit)
        found = [path for path in top.rglob("*") if path.is_file()]
        files = [RemoteFile(path.relative_to(top).as_posix(), path.stat().st_size, "") for path in found]
        return Listing(commit, {file.path: file for file in files}, published=False)

    def has(self, commit: str, file: RemoteFile) -> bool:
        return file_size(self.snapshot(commit) / file.path) == file.size

    def link(self, commit: str, file: RemoteFile) -> None:
        """Make the snapshot's link to a blob that is whole; where links cannot be made, move the blob there."""
        pointer, blob = self.snapshot(commit) / file.path, self.blob(file)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        try:
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except FileExistsError:  # another process was faster
            pass
        except (OSError, NotImplementedError):
            blob.replace(pointer)

    def record(self, revision: str, listing: Listing) -> None:
        """Write down that a commit is whole, and that the revision stands at it; a read-only cache stays as it is."""
        rows = [asdict(file) for file in listing.files.values()]
        with contextlib.suppress(OSError):
            _replace_text(self.folder / "embedcache" / f"{listing.commit}.json", json.dumps(rows, indent=0))
            if revision != listing.commit:
                _replace_text(self.folder / "refs" / revision, listing.commit)


def file_size(path: Path) -> int:
    """Return the size of a file in bytes, -1 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def content_digest(path: Path, file: RemoteFile) -> str:
    """Return the digest of a file's content in the manner of the one listed: sha256, or git's sha1 of a blob."""
    state = hashlib.sha256() if len(file.digest) == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def _replace_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as part:
        part.write(text)
    Path(part.name).chmod(0o644)
    Path(part.name).replace(path)
