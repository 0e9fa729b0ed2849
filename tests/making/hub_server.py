"""A Hugging Face hub on the loopback address, as far as its clients ask: for models, data sets and plain files.

It answers from memory, counts what it is asked, and does on request what goes wrong between here and the real one.
"""

import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_of_the_test"  # of nobody
_LARGE = 2048  # bytes from which on a file is in Git LFS, as on the hub


@dataclass
class Repo:
    """A repository: files by commit, commits by branch or tag."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    is_gated: bool = False

    def commit(self, files: Mapping[str, bytes], *names: str) -> str:
        """A new commit with these files, which `main` and the other names stand for from now on; its hash."""
        number = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[number] = dict(files)
        self.refs.update(dict.fromkeys(("main", *names), number))
        return number


@dataclass
class Hub:
    """What the server holds, what it was asked, and what it does wrong.

    Attributes:
        repos: by path: `owner/name` for models, `datasets/owner/name` for data sets.
        plain: bytes by path, for what is not of a hub.
        asked: method and path of every request.
        ranges: the first byte of every request that went on from somewhere.
        broken: names of files whose transfer breaks off in the middle, and how often it still will.
        spoilt: names of files that are sent with a bit changed.
        failing: what is answered for names of files instead.
    """

    address: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    plain: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    ranges: list[int] = field(default_factory=list)
    broken: dict[str, int] = field(default_factory=dict)
    spoilt: set[str] = field(default_factory=set)
    failing: dict[str, int] = field(default_factory=dict)

    def fetched(self) -> list[str]:
        """Names of the files that were sent, in order."""
        return [line.rpartition("/")[2] for line in self.asked if line.startswith("GET") and "/api/" not in line]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if len(content) >= _LARGE else _git_hash(content)


def _entry(path: str, content: bytes) -> dict[str, Any]:
    """A file as the tree of a repository lists it."""
    large = {"oid": _etag(content), "size": len(content), "pointerSize": 130} if len(content) >= _LARGE else None
    entry = {"type": "file", "oid": _git_hash(content), "size": len(content), "path": path}
    return {**entry, "lfs": large} if large else entry


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may leave in the middle."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _RefusalError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", commit: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message or code, "X-Repo-Commit": commit}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(f"{self.command} {url.path}")
        try:
            if url.path in self.hub.plain:
                assert not (url.path.startswith("/large/") and "Authorization" in self.headers)
                self._send_file(url.path, self.hub.plain[url.path], {})
            elif url.path.startswith("/api/"):
                self._send_json(self._api(url.path.removeprefix("/api/"), url.query, body))
            elif found := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", url.path):
                self._resolve(found[1], unquote(found[2]), unquote(found[3]))
            else:
                raise _RefusalError(404, "", "Not Found")
        except _RefusalError as refusal:
            self._send(refusal.status, b'{"error": "refused"}', refusal.headers)

    # --- the hub's rules --------------------------------------------------------------------------

    def _repo(self, name: str) -> Repo:
        token = self.headers.get("Authorization")
        is_known = token == f"Bearer {TOKEN}"
        if token and not is_known:
            raise _RefusalError(401, "", "Invalid credentials in Authorization header")
        if name not in self.hub.repos:  # a stranger is not told what there is
            if is_known:
                raise _RefusalError(404, "RepoNotFound", "Repository not found")
            raise _RefusalError(401, "", "Invalid username or password.")
        return self.hub.repos[name]

    def _commit(self, repo: Repo, revision: str) -> str:
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            raise _RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _resolve(self, name: str, revision: str, file: str) -> None:
        repo = self._repo(name)
        if repo.is_gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _RefusalError(401, "GatedRepo", f"Access to model {name} is restricted.")
        if file in self.hub.failing:
            raise _RefusalError(self.hub.failing[file], "", "Something is broken here")
        commit = self._commit(repo, revision)
        if file not in repo.commits[commit]:
            raise _RefusalError(404, "EntryNotFound", "Entry not found", commit)
        content = repo.commits[commit][file]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_etag(content)}"'}
        if len(content) < _LARGE:
            self._send_file(file, content, headers)
            return
        place = f"/large/{_etag(content)}/{file}"  # of another host, which is not told the token
        self.hub.plain[place] = content
        headers |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": headers.pop("ETag")}
        self._send(302, b"", {**headers, "Location": self.hub.address.replace("127.0.0.1", "localhost") + place})

    def _api(self, path: str, query: str, body: bytes) -> Any:
        pattern = r"(models/|datasets/)([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?"
        found = re.fullmatch(pattern, path)
        if found is None:
            raise _RefusalError(404, "", "Not Found")
        kind, name, what, revision, below = found.groups()
        repo = self._repo(kind.removeprefix("models/") + name)
        commit = self._commit(repo, unquote(revision or "main"))
        files = repo.commits[commit]
        if what == "tree":
            return _tree(files, unquote(below or "").strip("/"), parse_qs(query).get("recursive", [""])[0] == "true")
        if what == "paths-info":
            return _paths_info(files, body, self.headers.get("Content-Type", ""))
        return {
            "_id": "1", "id": name, "sha": commit, "private": False, "gated": "auto" if repo.is_gated else False,
            "disabled": False, "downloads": 0, "likes": 0, "tags": [], "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z", "siblings": [{"rfilename": file} for file in sorted(files)],
        }  # fmt: skip

    # --- bytes ------------------------------------------------------------------------------------

    def _send_file(self, file: str, content: bytes, headers: dict[str, str]) -> None:
        name, status, first = file.rpartition("/")[2], 200, 0
        if name in self.hub.failing:
            raise _RefusalError(self.hub.failing[name], "", "Something is broken here")
        if name in self.hub.spoilt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        total = len(content)
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            first, status = int(found[1]), 206
            self.hub.ranges.append(first)
            headers["Content-Range"] = f"bytes {first}-{total - 1}/{total}"
        content = content[first:]
        if self.command == "GET" and self.hub.broken.get(name, 0):
            self.hub.broken[name] -= 1
            self._send(status, content, headers, sent=len(content) // 2)
            self.close_connection = True
            return
        self._send(status, content, headers)

    def _send_json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str], *, sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Accept-Ranges": "bytes", **headers, "Content-Length": str(len(content))}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])
            self.wfile.flush()


def _tree(files: Mapping[str, bytes], folder: str, is_recursive: bool) -> list[dict[str, Any]]:
    """What is in a folder, or anywhere below it.

    Raises:
        _RefusalError: there is no such folder.
    """
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, content in sorted(files.items()):
        parts = path.removeprefix(prefix).split("/") if path.startswith(prefix) else []
        for depth in range(1, len(parts)):
            name = prefix + "/".join(parts[:depth])
            if depth == 1 or is_recursive:
                entries[name] = {"type": "directory", "oid": _git_hash(name.encode()), "size": 0, "path": name}
        if parts and (len(parts) == 1 or is_recursive):
            entries[path] = _entry(path, content)
    if folder and not entries:
        raise _RefusalError(404, "EntryNotFound", f"{folder} does not exist")
    return list(entries.values())


def _paths_info(files: Mapping[str, bytes], body: bytes, content_type: str) -> list[dict[str, Any]]:
    """What of the paths that are asked for is there."""
    paths = json.loads(body)["paths"] if "json" in content_type else parse_qs(body.decode())["paths"]
    entries = {entry["path"]: entry for entry in _tree(files, "", True)}
    return [entries[path] for path in paths if path in entries]
