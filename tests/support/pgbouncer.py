"""A real PgBouncer that pools transactions, in front of the tests' Postgres. The first one on PATH is taken."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url

from service.local.postgres import PORT, SUPERUSER, USER, EmbeddedPostgres
from tests.support.ports import free_port, wait_until_it_listens

CONFIGURATION = """
[databases]
* = host=/proc/self/cwd port={postgres_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {pool_size}
min_pool_size = 0
reserve_pool_size = 0
max_client_conn = 200
ignore_startup_parameters = {ignored}
"""


@contextmanager
def pgbouncer(server: EmbeddedPostgres, *, pool_size: int, ignored: str = "") -> Iterator[int]:
    """Its port on 127.0.0.1, for the time of the block. Skips where there is no PgBouncer.

    Args:
        server: Where it leads to.
        pool_size: Server connections of each database and role.
        ignored: Startup parameters that it drops without a word.
    """
    program = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin"]))
    if program is None:
        pytest.skip("no PgBouncer here (Debian: apt-get install pgbouncer)")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ft-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "users").write_text(f'"{USER}" ""\n"{SUPERUSER}" ""\n')
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(
            CONFIGURATION.format(folder=folder, port=port, postgres_port=PORT, pool_size=pool_size, ignored=ignored)
        )
        # It refuses to run as root, and only the owner of the server's folder, which it stands in, gets at the socket.
        owner = server.folder.stat().st_uid if os.geteuid() == 0 else None
        with (folder / "log").open("wb") as log:
            command = [program, str(configuration)]
            process = subprocess.Popen(command, cwd=server.folder, user=owner, stdout=log, stderr=log)
        try:
            wait_until_it_listens(port, process, (folder / "log").read_text)
            yield port
        finally:
            process.kill()  # told to end, a current one first waits for all its clients to go
            process.wait(30)


def through(port: int, database_url: str) -> str:
    """The same database, by way of the pooler at `port`."""
    url = make_url(database_url).set(host="127.0.0.1", port=port, query={})
    return url.render_as_string(hide_password=False)
