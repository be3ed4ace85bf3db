"""A local server that answers as the Hugging Face hub does, with one repository from a folder."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

COMMIT = "c0ffee" * 6 + "abcd"
LOAD = """
import sys
from pathlib import Path
import torch
from service.contract.spec import ModelSource, ModelSpec, TrainingConfig
from worker.child.failures import failure_of
from worker.training.models import load_model
spec = ModelSpec(source=ModelSource.HUB, location="org/model", revision=sys.argv[1])
try:
    load_model(spec, TrainingConfig(), torch.device("cpu"), cache=Path(sys.argv[2]))
    print("null")
except Exception as error:
    print(failure_of(error).model_dump_json())
"""
"""Loads the model of a revision into a cache folder, as a child does, and prints why it could not, or null."""


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
