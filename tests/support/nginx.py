"""A real nginx with a `location` as docs/operating.md gives it."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.ports import free_port, wait_until_it_listens

DOCUMENT = Path(__file__).parents[2] / "docs" / "operating.md"
UPSTREAM = "http://127.0.0.1:8000"

CONFIGURATION = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
{location}
    }}
}}
"""


def documented_location(prefix: str, *, strip: bool) -> str:
    """The document's example for another path; with `strip`, what the sentence after it makes of it."""
    text = DOCUMENT.read_text()
    (block,) = re.findall(r"^    location .*?^    \}$", text, re.MULTILINE | re.DOTALL)
    kept, stripped = f"proxy_pass {UPSTREAM};", f"proxy_pass {UPSTREAM}/;"
    assert kept in block
    assert f"`{stripped}`" in text
    block = block.replace("location /finetooth/", f"location {prefix}/")
    return block.replace(kept, stripped) if strip else block


@contextmanager
def nginx(target: str, location: str) -> Iterator[str]:
    """Its address, for the time of the block; the location's upstream is `target`. Skips where there is no nginx."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/opt/homebrew/bin")
    if program is None:
        pytest.skip("no nginx here (Debian: apt-get install nginx)")
    port = free_port()
    location = location.replace(UPSTREAM, f"http://{urlsplit(target).netloc}")
    with tempfile.TemporaryDirectory(prefix="ft-") as folder:
        configuration = Path(folder, "nginx.conf")
        configuration.write_text(CONFIGURATION.format(folder=folder, port=port, location=location))
        command = [program, "-e", f"{folder}/error.log", "-p", folder, "-c", str(configuration)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                wait_until_it_listens(port, process, lambda: process.stderr and process.stderr.read())
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()
