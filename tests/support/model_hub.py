"""A local server that answers as the Hugging Face hub does, with one repository from a folder."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

COMMIT = "c0ffee" * 6 + "abcd"


class Hub(BaseHTTPRequestHandler):
    folder: ClassVar[Path]
    asked: ClassVar[set[str]]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == f"/api/models/org/model/tree/{COMMIT}":
            files = [file for file in self.folder.rglob("*") if file.is_file()]
            entries = [
                {"type": "file", "path": str(f.relative_to(self.folder)), "size": f.stat().st_size, "oid": oid(f)}
                for f in files
            ]
            self.answer(json.dumps(entries).encode())
            return
        name = path.partition(f"/resolve/{COMMIT}/")[2]
        file = self.folder / name
        if name and file.is_file():
            self.asked.add(name)
            self.answer(file.read_bytes(), ETag=f'"{oid(file)}"', **{"X-Repo-Commit": COMMIT})
            return
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815  # the base class's spelling

    def answer(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def oid(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
