"""A real S3 server on this machine: moto's, on 127.0.0.1 and a free port, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

BUCKET = "kick-test"


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Serve until the context ends; gives the environment that points S3 clients at it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.stop()
