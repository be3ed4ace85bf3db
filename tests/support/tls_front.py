"""A server's Unix socket behind TLS on the loopback interface, with a certificate of an authority of its own."""

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Front:
    """Where it listens, and the certificate that vouches for it."""

    port: int
    certificate: Path


@contextmanager
def tls_in_front_of(unix_socket: Path, folder: Path, *, name: str) -> Iterator[Front]:
    """Passes bytes between TLS clients and the socket for as long as the block lasts. The certificate is for `name`."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    openssl = shutil.which("openssl")
    assert openssl is not None
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", key, "-out", certificate, "-days", "2", "-subj", f"/CN={name}",
            "-addext", f"subjectAltName=DNS:{name}",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, context, unix_socket), daemon=True)
        thread.start()
        try:
            yield Front(listener.getsockname()[1], certificate)
        finally:
            # `accept` does not end where its socket is only closed.
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def _serve(listener: socket.socket, context: ssl.SSLContext, unix_socket: Path) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_pass_on, args=(client, context, unix_socket), daemon=True).start()


def _pass_on(client: socket.socket, context: ssl.SSLContext, unix_socket: Path) -> None:
    # A client that refuses the certificate leaves in the middle of the handshake.
    with (
        suppress(OSError),
        context.wrap_socket(client, server_side=True) as outside,
        socket.socket(socket.AF_UNIX) as inside,
    ):
        inside.connect(str(unix_socket))
        answers = threading.Thread(target=_copy, args=(inside, outside), daemon=True)
        answers.start()
        _copy(outside, inside)
        answers.join(10)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
