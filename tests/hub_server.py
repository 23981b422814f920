"""A Hugging Face Hub on this machine, as far as the real client sees one; and all cases against it.

    python -m tests.hub_server <folder>

runs `tests.hub_cases` with the real client, which reads $HF_ENDPOINT when it is imported, and
prints `{case: what went wrong, or null}`. Large files are behind a redirect to another host name.
"""

import contextlib
import hashlib
import http.server
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Callable

_LARGE = (".safetensors", ".npz", ".pt", ".pth", ".model", "tokenizer.json")
TOKEN = "hf_good"  # of an account that has accepted every licence


class Repository:
    """The newest commit of a repository."""

    def __init__(self, files: dict[str, bytes], gated: bool = False):
        self.files, self.gated = files, gated
        listing = sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())
        self.commit = hashlib.sha1(json.dumps(listing).encode()).hexdigest()


class Hub:
    """Repositories in memory, what was asked of them, and what is to go wrong."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.renamed: dict[str, str] = {}
        self.asked: list[tuple[str, str, str]] = []  # method, repository, file
        self.faults: dict[str, list[Callable | None]] = {}  # by file: one for each request
        self.to_large: list[dict[str, str]] = []  # headers that the other host was sent
        self.connections: list[socket.socket] = []
        self.start()

    def start(self, port: int = 0) -> None:
        """Listens, on a free port or on the one that it had before."""
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Answers nobody any more, those who are connected included."""
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, files: dict[str, bytes], **options) -> Repository:
        """Makes a repository, or its next commit."""
        self.repositories[name] = Repository(files, **options)
        return self.repositories[name]

    def fetched(self) -> list[str]:
        """Returns the files whose content was asked for since the last call."""
        found = [file for method, _, file in self.asked if method == "GET"]
        self.asked.clear()
        return found


def status(code: int, **headers: str) -> Callable:
    """A fault: an answer without content."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, data: handler.answer(code, names)


def hang_up(handler, data: bytes) -> None:
    """A fault: the connection ends without an answer."""
    handler.close_connection = True


def cut(handler, data: bytes) -> None:
    """A fault: the connection ends in the middle of the content."""
    handler.answer(200, {"Content-Length": str(len(data))}, data[: len(data) // 2])
    handler.close_connection = True


def other_bytes(handler, data: bytes) -> None:
    """A fault: content that is not what was announced."""
    handler.answer(200, {"Content-Length": str(len(data))}, data[:-1] + bytes([data[-1] ^ 1]))


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def setup(self):
        super().setup()
        self.hub.connections.append(self.connection)

    def log_message(self, format, *args):
        pass

    def answer(self, code: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self):
        try:
            self._route()
        except ConnectionError:
            pass

    do_GET = do_HEAD

    def _route(self):
        if found := re.fullmatch(r"/large/([\w.-]+/[\w.-]+)/([0-9a-f]+)/(.+)", self.path):
            return self._content(found[1], found[2], found[3])
        found = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.path.split("?")[0])
        if not found:
            return self.answer(404, {})
        name, revision, file = found.groups()
        if name in self.hub.renamed:
            name = self.hub.renamed[name]
            return self.answer(307, {"Location": f"/{name}/resolve/{revision}/{file}"})
        repository = self.hub.repositories.get(name)
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if repository is None:
            return self.answer(404 if token else 401, {"X-Error-Code": "RepoNotFound"})
        if repository.gated and token != TOKEN:
            return self.answer(403 if token else 401, {"X-Error-Code": "GatedRepo"})
        if revision not in ("main", repository.commit):
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        return self._file(name, repository, file)

    def _file(self, name: str, repository: Repository, file: str):
        commit = {"X-Repo-Commit": repository.commit}
        if file not in repository.files:
            self.hub.asked.append((self.command, name, file))
            return self.answer(404, {"X-Error-Code": "EntryNotFound", **commit})
        data = repository.files[file]
        if file.endswith(_LARGE):
            where = f"http://localhost:{self.hub.port}/large/{name}/{repository.commit}/{file}"
            sha256 = hashlib.sha256(data).hexdigest()
            linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
            if self.command == "HEAD":
                self.hub.asked.append(("HEAD", name, file))
                if fault := self._fault(f"HEAD {file}"):
                    return fault(self, data)
            return self.answer(302, {"Location": where, **linked, **commit})
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return self._content(name, repository.commit, file, {"ETag": f'"{git}"', **commit})

    def _content(self, name: str, commit: str, file: str, headers: dict[str, str] | None = None):
        self.hub.asked.append((self.command, name, file))
        if headers is None:
            self.hub.to_large.append({k.lower(): v for k, v in self.headers.items()})
        data = self.hub.repositories[name].files[file]
        if fault := self._fault(f"{self.command} {file}"):
            return fault(self, data)
        headers, begin = dict(headers or {}), 0
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", "")):
            begin = int(found[1])
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        headers["Content-Length"] = str(len(data) - begin)
        self.answer(206 if begin else 200, headers, data[begin:])

    def _fault(self, request: str) -> Callable | None:
        faults = self.hub.faults.get(request)
        return faults.pop(0) if faults else None


def main(folder: str) -> None:
    hub = Hub()
    os.environ["HF_ENDPOINT"] = hub.url
    os.environ["HF_HOME"] = os.path.join(folder, "home")  # no token of this account's
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        os.environ.pop(name, None)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from jaxtyping import install_import_hook

    with install_import_hook("probejax", "beartype.beartype"):
        from tests import hub_cases  # only now, as the client reads $HF_ENDPOINT

    print(json.dumps(hub_cases.run(hub, folder)))


if __name__ == "__main__":
    main(sys.argv[1])
