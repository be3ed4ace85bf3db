"""Whether the broker answers, over TLS too: a certificate that nobody vouches for is refused unless told otherwise."""

from pathlib import Path
from urllib.parse import unquote

from pydantic import SecretStr

from service.lifecycle.wakeup import wake
from service.ops.broker_check import broker_answers
from service.settings import Settings
from tests.support.tls_front import tls_in_front_of


def test_the_brokers_certificate_is_verified(valkey_url: str, tmp_path: Path) -> None:
    socket = Path(unquote(valkey_url.removeprefix("redis+socket://").partition("?")[0]))
    with tls_in_front_of(socket, tmp_path, name="localhost") as front:

        def reached(url: str) -> bool:
            settings = Settings(broker_url=SecretStr(url), data_dir=tmp_path)
            answers = broker_answers(settings)
            assert wake(settings, "io") == answers
            return answers

        base = f"rediss://localhost:{front.port}/0"
        assert not reached(base)
        assert reached(f"{base}?ssl_ca_certs={front.certificate}")
        assert not reached(f"rediss://127.0.0.1:{front.port}/0?ssl_ca_certs={front.certificate}")
        assert reached(f"{base}?ssl_cert_reqs=none")
