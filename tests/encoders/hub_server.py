"""A loopback server that speaks the part of the hub's protocol that huggingface_hub uses, and fails when told to.

Written after https://huggingface.co/docs/hub/api and the requests of huggingface_hub 2.4:

    GET      /api/models/REPO/revision/REV?blobs=True    commit, and files with size, git id and LFS digest
    GET      /api/models/REPO/tree/REV?recursive=True    the same as a list (snapshot_download asks for it)
    GET HEAD /REPO/resolve/REV/FILE                      small files directly; weights by a redirect to the "CDN"
    GET HEAD /cdn/DIGEST                                 the bytes, with Range; refuses a token, as signed URLs do
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_test"
BLOCK = 1 << 18


@dataclass
class Faults:
    """What goes wrong; counts are used up, the rest stays."""

    unavailable: Counter[str] = field(default_factory=Counter)
    """File (or "api") -> how many requests are answered 503."""
    cut: Counter[str] = field(default_factory=Counter)
    """File -> how many bodies end half-way."""
    corrupt: Counter[str] = field(default_factory=Counter)
    """File -> how many bodies have a wrong byte."""
    claimed_size: dict[str, int] = field(default_factory=dict)
    gated: bool = False
    ignore_range: bool = False
    bytes_per_second: float = float("inf")


class HubServer:
    """Serves each folder under `root` (OWNER/NAME) as a model whose branch main stands at COMMIT."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.faults = Faults()
        self.revisions = {"main": COMMIT, COMMIT: COMMIT}
        self.requests: list[str] = []
        """Every request as "METHOD PATH" or "METHOD PATH Range", in order."""
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self.cdn = f"http://localhost:{self._http.server_port}/cdn"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering; the port stays free, so that connecting is refused."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def downloads(self, path: Path) -> list[str]:
        """Return the Range ("" for the whole) of each request for the bytes of an LFS file."""
        start = f"GET /cdn/{sha256(path)}"
        return [request.removeprefix(start).strip() for request in self.requests if request.startswith(start)]


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server_hub
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".rstrip())
        if path.startswith("/cdn/"):
            return self._cdn(path.removeprefix("/cdn/"))
        api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models/").strip("/").split("/")
        folder = hub.root / "/".join(parts[:2])
        if len(parts) < 4 or not folder.is_dir():
            # What the hub says of a repository that does not exist to one who is not logged in.
            return self._refuse(401, "RepoNotFound", "Repository not found")
        commit = hub.revisions.get(parts[3])
        if commit is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {parts[3]}")
        if api:
            return self._api(folder, commit, tree=parts[2] == "tree")
        return self._resolve(folder, "/".join(parts[4:]), commit)

    def _api(self, folder: Path, commit: str, tree: bool) -> None:
        if self._unavailable("api"):
            return None
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        rows = [self._tree_row(path, folder) if tree else self._sibling(path, folder) for path in files]
        repo = folder.relative_to(self.server_hub.root).as_posix()
        answer = rows if tree else {"id": repo, "modelId": repo, "sha": commit, "siblings": rows}
        return self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _sibling(self, path: Path, folder: Path) -> dict[str, object]:
        name = path.relative_to(folder).as_posix()
        size = self.server_hub.faults.claimed_size.get(name, path.stat().st_size)
        row: dict[str, object] = {"rfilename": name, "size": size, "blobId": git_sha1(path)}
        if is_lfs(path):
            row["lfs"] = {"sha256": sha256(path), "size": size, "pointerSize": 134}
        return row

    def _tree_row(self, path: Path, folder: Path) -> dict[str, object]:
        name, size = path.relative_to(folder).as_posix(), path.stat().st_size
        row: dict[str, object] = {"type": "file", "path": name, "size": size, "oid": git_sha1(path)}
        if is_lfs(path):
            row["lfs"] = {"oid": sha256(path), "size": size, "pointerSize": 134}
        return row

    def _resolve(self, folder: Path, name: str, commit: str) -> None:
        path = folder / name
        if self.server_hub.faults.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "GatedRepo", "Access to this model is restricted")
        if not path.is_file():
            return self._refuse(404, "EntryNotFound", "Entry not found")
        if self._unavailable(name):
            return None
        headers = {"X-Repo-Commit": commit}
        if not is_lfs(path):
            return self._send_file(path, {**headers, "ETag": f'"{git_sha1(path)}"'})
        headers |= {"X-Linked-ETag": f'"{sha256(path)}"', "X-Linked-Size": str(path.stat().st_size)}
        return self._send(302, b"", {**headers, "Location": f"{self.server_hub.cdn}/{sha256(path)}"})

    def _cdn(self, digest: str) -> None:
        if "Authorization" in self.headers:
            return self._refuse(400, "", "Only one auth mechanism allowed")
        path = next(path for path in self.server_hub.root.rglob("*") if is_lfs(path) and sha256(path) == digest)
        return self._send_file(path, {"ETag": f'"{digest}"'})

    def _send_file(self, path: Path, headers: dict[str, str]) -> None:
        faults, name = self.server_hub.faults, path.name
        content, status, start = path.read_bytes(), 200, 0
        asked = self.headers.get("Range")
        if asked and not faults.ignore_range:
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            headers |= {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        body = bytearray(content[start:])
        if take(faults.corrupt, name):
            body[len(body) // 2] ^= 1
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body)), "Accept-Ranges": "bytes"}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if take(faults.cut, name):
            del body[len(body) // 2 :]
            self.close_connection = True
        for offset in range(0, len(body), BLOCK):
            try:
                self.wfile.write(body[offset : offset + BLOCK])
            except OSError:  # the client was killed
                self.close_connection = True
                return
            time.sleep(BLOCK / faults.bytes_per_second)

    def _unavailable(self, name: str) -> bool:
        failing = take(self.server_hub.faults.unavailable, name)
        if failing:
            self._send(503, b"", {})
        return failing

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, message.encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def is_lfs(path: Path) -> bool:
    """Say whether the hub keeps a file in LFS."""
    return path.suffix in {".safetensors", ".bin", ".h5", ".msgpack", ".onnx", ".npz"}


def sha256(path: Path) -> str:
    """Return the digest of an LFS file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def git_sha1(path: Path) -> str:
    """Return git's id of a file."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def take(counts: Counter[str], name: str) -> bool:
    """Use up one of the faults of a name."""
    counts[name] -= 1
    return counts[name] >= 0
