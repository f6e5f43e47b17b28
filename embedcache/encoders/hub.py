"""Model files from the Hugging Face hub: verified, resumable, never half-written, usable offline.

Files go into huggingface_hub's own cache (see hubcache). The transfer is its `file_download.http_get`, which knows
login, redirects, proxies and cut streams. Its `hf_hub_download` is not used: over plain HTTP it checks sizes but no
content, and since 1.x a killed download starts again from nothing (a new temporary file for each process).
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NoReturn, TypeVar

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RevisionNotFoundError,
    WeakFileLock,
    build_hf_headers,
)
from tqdm import tqdm

from embedcache.encoders.hubcache import Listing, RemoteFile, RepoCache, content_digest, file_size
from embedcache.errors import ModelError

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds between the tries of one request or file: five tries in all."""

CONFIG = "config.json"
TOKENIZER = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""In order of preference: the first that is published is taken, with its shards, and no other."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHARD = re.compile(r"[\w.-]+\.(safetensors|bin)")
_HTTP_LIBRARIES = {"httpx2", "httpx", "requests", "urllib3"}
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_log = logging.getLogger("embedcache")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class ModelFiles:
    """A directory with config.json, tokenizer files and weights, and where it came from."""

    directory: Path
    repo_id: str | None
    revision: str | None
    """The commit, 40 hex digits; None for a local directory."""


class _UnreachableError(Exception):
    """The hub gave no answer, or none that says anything about the model."""


def cached(repo_id: str, revision: str = "main") -> ModelFiles | None:
    """Return the files of a hub model if the cache holds all of them, without any request; else None."""
    try:
        return fetch(repo_id, revision, progress=False, ask=False)
    except ModelError:
        return None


def fetch(
    repo_id: str,
    revision: str = "main",
    *,
    progress: bool = True,
    ask: bool = True,
    beside: Sequence[str] = TOKENIZER,
    weights: bool = True,
) -> ModelFiles:
    """Return the files of a hub model, downloading what the cache lacks.

    `repo_id` is ``owner/name``, or ``owner/name/folder`` where a repository holds several models. `revision` is a
    commit, branch or tag. A commit that was fetched before is used without any request; a branch or tag is looked up
    first, and its last known commit is used when the hub cannot be reached or HF_HUB_OFFLINE is set. Only config.json,
    the files `beside` it (names, or shell patterns) and, unless `weights` is False, the weights are taken (safetensors
    where published, else pytorch_model.bin), and every byte is checked against the hub's digests. Without `ask` the
    cache alone is looked at. Raises ModelError, which names the way out.
    """
    repo, folder = "/".join(repo_id.split("/")[:2]), "/".join(repo_id.split("/")[2:])
    listing, fetched = _look_up(repo, revision, repo_id, ask)
    cache = fetched.cache
    files = listing.inside(folder)
    heavy = next((files[name] for name in WEIGHTS if name in files), None) if weights else None
    if CONFIG not in files or (weights and heavy is None):
        lacking = "weights (model.safetensors or pytorch_model.bin)" if CONFIG in files else CONFIG
        if not listing.published:
            fetched.refuse([lacking])
        there = ", ".join(sorted(files)[:12]) + (f" and {len(files) - 12} more" if len(files) > 12 else "")
        raise ModelError(
            f"{repo_id} at commit {listing.commit[:12]} has no {lacking}; it has {there or 'no files'}. Choose another "
            "model or revision (`embedcache models` lists those known to work), or convert it and give its directory."
        )
    last = [heavy] if heavy is not None else []
    if heavy is not None and heavy.path.endswith(".index.json"):
        fetched.ensure(last, progress=False)
        last = [*_shards(cache.snapshot(listing.commit) / heavy.path, files, repo_id), heavy]
    # Weights come last: a snapshot that has them has all the rest.
    small = [files[name] for name in sorted(files) if "/" not in name and _is_one_of(name, (CONFIG, *beside))]
    fetched.ensure([*small, *last], progress=progress)
    _note(revision, listing, fetched, ask)
    return ModelFiles(cache.snapshot(listing.commit) / folder, repo_id, listing.commit)


def fetch_beside(
    repo: str, revision: str, folder: str, patterns: Sequence[str], *, progress: bool = True, ask: bool = True
) -> ModelFiles:
    """Return files of a hub repository that are no model, such as dictionaries, downloading what the cache lacks.

    Those in `folder` whose names fit one of the shell patterns are taken. The rest is as in `fetch`.
    """
    listing, fetched = _look_up(repo, revision, f"{repo}/{folder}", ask)
    inside = listing.inside(folder)
    wanted = [inside[name] for name in sorted(inside) if "/" not in name and _is_one_of(name, patterns)]
    if not wanted and not listing.published:
        fetched.refuse(list(patterns))
    fetched.ensure(wanted, progress=progress)
    _note(revision, listing, fetched, ask)
    return ModelFiles(fetched.cache.snapshot(listing.commit) / folder, repo, listing.commit)


def _look_up(repo: str, revision: str, repo_id: str, ask: bool) -> tuple[Listing, _Fetch]:
    """Find out which files a revision has: from the cache for a commit, else from the hub, else what is known of it."""
    cache = RepoCache(Path(constants.HF_HUB_CACHE).expanduser().resolve(), repo)
    known = cache.known_commit(revision)
    listing = cache.saved_listing(known) if known == revision else None
    offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "" if ask else "the hub is not asked"
    if listing is None and not offline:
        try:
            listing = _ask_hub(repo, revision, tries=1 if cache.snapshot(known).is_dir() else len(WAITS) + 1)
        except _UnreachableError as error:
            offline = f"{constants.ENDPOINT} cannot be reached ({error})"
    if listing is None:
        listing = cache.saved_listing(known) or cache.found_listing(known)
    return listing, _Fetch(cache, listing.commit, repo_id, offline)


def _note(revision: str, listing: Listing, fetched: _Fetch, ask: bool) -> None:
    """Remember the commit that a revision was found at, or warn that an earlier one was taken."""
    if ask and fetched.offline and listing.commit != revision:
        _log.warning(
            "%s: %s; using its last known commit %s from the cache", fetched.repo_id, fetched.offline, listing.commit
        )
    if not fetched.offline:
        fetched.cache.record(revision, listing)


def _is_one_of(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _shards(index: Path, files: dict[str, RemoteFile], repo_id: str) -> list[RemoteFile]:
    """Return the files that a weights index names, in order."""
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        missing = [name for name in names if name not in files or not _SHARD.fullmatch(name)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{repo_id}: {index.name} is not an index of weights; choose another revision.") from error
    if missing:
        raise ModelError(
            f"{repo_id}: {index.name} names {', '.join(missing)}, which the repository lacks; choose another revision."
        )
    return [files[name] for name in names]


def _ask_hub(repo: str, revision: str, tries: int) -> Listing:
    """Return the commit of a revision and its files; raises _UnreachableError, or ModelError where the hub says no."""

    def ask() -> Listing:
        info = HfApi().model_info(
            repo, revision=revision, files_metadata=True, timeout=float(constants.HF_HUB_ETAG_TIMEOUT)
        )
        files = {}
        for sibling in info.siblings:
            lfs = sibling.lfs
            digest = lfs.sha256 if lfs else sibling.blob_id
            if not _DIGEST.fullmatch(digest):
                raise ValueError(f"no digest for {sibling.rfilename}")
            files[sibling.rfilename] = RemoteFile(sibling.rfilename, int(lfs.size if lfs else sibling.size), digest)
        if not _COMMIT.fullmatch(info.sha):
            raise ValueError("no commit")
        return Listing(info.sha, files)

    try:
        return _retried(ask, tries, repo)
    except (HFValidationError, HfHubHTTPError) as error:
        _refuse_access(error, repo, revision)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{constants.ENDPOINT} does not answer as a Hugging Face hub does ({error}); check HF_ENDPOINT and the "
            "proxy settings, or give the path of a directory that holds the model."
        ) from error


def _retried(action: Callable[[], _Answer], tries: int, what: str) -> _Answer:
    """Return what `action` returns, trying again after each failure that may pass; then raises _UnreachableError."""
    for attempt in range(1, tries + 1):
        try:
            return action()
        except Exception as error:
            if not _may_pass(error):
                raise
            reason = str(error).split("\n", 1)[0] or type(error).__name__
            if attempt == tries:
                raise _UnreachableError(reason) from error
            _log.warning("%s: %s; try %d of %d in %g s", what, reason, attempt + 1, tries, WAITS[attempt - 1])
            time.sleep(WAITS[attempt - 1])
    raise AssertionError("tries is at least 1")


def _may_pass(error: Exception) -> bool:
    """Say whether the same request may succeed later: no connection, a timeout, a cut body, a server's trouble."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status >= 500 or status in (408, 429)
    # Errors of the HTTP library are told by its name: huggingface_hub 0.x is built on requests, 1.x on httpx, 2.x on
    # httpx2. A body of the wrong length is a bare OSError without errno.
    library = type(error).__module__.partition(".")[0]
    short = isinstance(error, OSError) and error.errno is None
    return library in _HTTP_LIBRARIES or short or isinstance(error, (ConnectionError, TimeoutError))


def _refuse_access(error: Exception, repo: str, revision: str) -> NoReturn:
    """Raise the ModelError for a hub that answered, and said no."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    login = "log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, HFValidationError):
        message = f"{repo!r} is neither a directory nor a hub id such as owner/name; `embedcache models` lists aliases."
    elif isinstance(error, GatedRepoError):
        message = f"{repo} is gated: accept its terms at {constants.ENDPOINT}/{repo}, then {login}."
    elif isinstance(error, RevisionNotFoundError):
        message = (
            f"{repo} has no revision {revision!r}; give a branch, a tag or a full commit, or leave it out for main."
        )
    elif status in (401, 403, 404):
        message = (
            f"{repo} is not on {constants.ENDPOINT}, or is private ({status}): check the spelling (`embedcache models` "
            f"lists known models); for a private model, {login}."
        )
    else:
        message = f"{constants.ENDPOINT} refuses {repo} at {revision}: {str(error).splitlines()[0]}"
    raise ModelError(message) from error


@dataclass(frozen=True)
class _Fetch:
    """Brings files of one commit into the cache."""

    cache: RepoCache
    commit: str
    repo_id: str
    offline: str
    """Why the hub cannot be asked; "" where it can."""

    def ensure(self, files: Sequence[RemoteFile], *, progress: bool) -> None:
        """Download the files that the snapshot lacks, or raise ModelError; before the first byte if they cannot fit."""
        missing = [file for file in files if not self.cache.has(self.commit, file)]
        if missing and self.offline:
            self.refuse([file.path for file in missing])
        absent = [file for file in missing if file_size(self.cache.blob(file)) != file.size]
        total = sum(file.size for file in absent)
        begun = sum(min(max(file_size(self.cache.partial(file)), 0), file.size) for file in absent)
        quiet = not (progress and absent) or constants.HF_HUB_DISABLE_PROGRESS_BARS is True
        try:
            if absent:
                self.cache.blob(absent[0]).parent.mkdir(parents=True, exist_ok=True)
                if shutil.disk_usage(self.cache.folder).free < total - begun:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with tqdm(total=total, initial=begun, desc=self.repo_id, unit="B", unit_scale=True, disable=quiet) as bar:
                for file in missing:
                    self._download(file, bar)
        except HfHubHTTPError as error:
            _refuse_access(error, self.cache.repo, self.commit)
        except _UnreachableError as error:
            raise ModelError(
                f"{self.repo_id}: the download from {constants.ENDPOINT} broke off ({error}); "
                "run the same command again, it goes on where it stopped."
            ) from error
        except OSError as error:
            if error.errno in _DISK_FULL:
                message = (
                    f"needs {total / 1e6:,.1f} MB in {self.cache.root}, where the disk or quota is full; free some"
                )
            else:
                message = f"cannot be written to {self.cache.root} ({error}); make it writable"
            raise ModelError(f"{self.repo_id}: {message}, or set HF_HOME to a folder on another disk.") from error

    def _download(self, file: RemoteFile, bar: tqdm[NoReturn]) -> None:
        """Bring one file into the snapshot, twice if its content is wrong the first time."""
        lock, blob, partial = self.cache.lock(file), self.cache.blob(file), self.cache.partial(file)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            tries = 2
            while file_size(blob) != file.size:
                _retried(lambda: self._transfer(file, bar), len(WAITS) + 1, f"{self.repo_id}: {file.path}")
                if content_digest(partial, file) == file.digest:
                    partial.replace(blob)
                    break
                partial.unlink()
                bar.update(-file.size)
                tries -= 1
                if not tries:
                    raise ModelError(
                        f"{self.repo_id}: {file.path} arrived twice with another content than {constants.ENDPOINT} "
                        "lists, and was thrown away; check the proxy or mirror in between, or copy the model here and "
                        "give the path of its directory."
                    )
                _log.warning("%s: %s arrived damaged; fetching it again", self.repo_id, file.path)
            if not self.cache.has(self.commit, file):  # another process may have brought it while this one waited
                self.cache.link(self.commit, file)

    def _transfer(self, file: RemoteFile, bar: tqdm[NoReturn]) -> None:
        """Append to the partial file what it lacks."""
        partial = self.cache.partial(file)
        if file_size(partial) > file.size:
            partial.unlink()
        partial.touch()
        # "r+b", not append: where locks do not work (some network disks) two writers then write the same bytes at the
        # same places.
        with partial.open("r+b") as content:
            http_get(
                hf_hub_url(self.cache.repo, file.path, revision=self.commit),
                content,
                resume_size=content.seek(0, os.SEEK_END),
                headers={**build_hf_headers(), "Accept-Encoding": "identity"},
                expected_size=file.size,
                displayed_filename=file.path,
                _tqdm_bar=bar,
            )
            content.flush()
            os.fsync(content.fileno())

    def refuse(self, missing: Sequence[str]) -> NoReturn:
        """Raise the ModelError for files that are not in the cache while the hub cannot be asked."""
        of_commit = f" of commit {self.commit[:12]}" if self.commit else ""
        raise ModelError(
            f"{self.repo_id}: {self.offline}, and the cache {self.cache.root} lacks {', '.join(missing)}{of_commit}. "
            "Run once with a connection; or copy the model here and give the path of its directory; or set HF_HOME to "
            "a cache that holds it."
        )
