"""A real S3 server on this machine: moto's, on 127.0.0.1 and a free port, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

BUCKET = "kick-test"


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Serve a bucket until the context ends; gives the environment that points S3 clients at it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url, place = f"http://{host}:{port}", "us-east-1"
    names = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    boto3.client("s3", endpoint_url=url, region_name=place, **names).create_bucket(Bucket=BUCKET)
    try:
        yield {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": place} | {
            name.upper(): value for name, value in names.items()
        }
    finally:
        server.stop()
