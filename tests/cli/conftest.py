"""Fixtures of the tests of the command line: a stand-in for S3, and the batches of a run."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest

from distill_cli.types import Batch


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    # Servers of one process share what they hold.
    reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset).close()
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem(use_listings_cache=False).mkdir("bucket")
    yield "s3://bucket"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """The batches that runs are shown."""
    from distill_cli.training.loop import Trainer

    batches: list[Batch] = []
    plain = Trainer.train_step
    monkeypatch.setattr(
        Trainer, "train_step", lambda self, batch: (batches.append(batch), plain(self, batch))[1]
    )
    return batches
