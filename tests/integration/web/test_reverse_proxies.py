"""The proxy configurations of docs/reverse-proxy.md in front of a real backend."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult

from config.settings import load
from tests.fakes.reverse_proxies import caddy, nginx
from tests.fixtures.backend_server import served
from tests.fixtures.ports import free_port
from tests.fixtures.songs import make_song
from tests.fixtures.tiny_models import write_model

HOST = "stems.example.org"
TOKEN = "a-token-of-good-length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PER_HOUR = 3
LARGE_BYTES = 45 * 2**20
DOCUMENT = Path(__file__).parents[3] / "docs" / "reverse-proxy.md"


class Loopback(AbstractResolver):
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        assert host == HOST
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


@dataclass(frozen=True)
class Proxied:
    url: str
    trust: ssl.SSLContext

    @contextlib.asynccontextmanager
    async def client(self, address: str = "127.0.0.2", **headers: str) -> AsyncIterator[aiohttp.ClientSession]:
        """Open a client at this address, with a token unless `headers` are given."""
        sockets: list[socket.socket] = []

        def open_socket(found: aiohttp.AddrInfoType) -> socket.socket:
            sockets.append(socket.socket(*found[:3]))
            return sockets[-1]

        connector = aiohttp.TCPConnector(
            resolver=Loopback(), ssl=self.trust, local_addr=(address, 0), socket_factory=open_socket
        )
        timeout = aiohttp.ClientTimeout(total=100)
        async with aiohttp.ClientSession(
            self.url, connector=connector, headers=headers or BEARER, timeout=timeout
        ) as client:
            yield client
        async with asyncio.timeout(60):  # aiohttp closes TLS connections in the background
            while any(each.fileno() >= 0 for each in sockets):
                await asyncio.sleep(0.01)


def documented(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def replaced(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("song") / "short.wav"
    make_song(path, seconds=2)
    return path.read_bytes()


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def proxied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    authority = trustme.CA()
    issued = authority.issue_cert(HOST)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    write_model(folder / "models")
    backend_port = free_port()
    files = f"/etc/letsencrypt/live/{HOST}"
    with contextlib.ExitStack() as stack:
        if request.param == "nginx":
            config = replaced(
                documented("nginx"),
                ("listen 443 ssl", "listen 127.0.0.1:PORT ssl"),
                (f"{files}/fullchain.pem", str(certificate)),
                (f"{files}/privkey.pem", str(key)),
                ("127.0.0.1:8080", f"127.0.0.1:{backend_port}"),
            )
            port = stack.enter_context(nginx(config, folder))
        else:
            config = replaced(
                documented("caddy"),
                (f"{HOST} {{", f"{HOST}:PORT {{\n    bind 127.0.0.1\n    tls {certificate} {key}"),
                ("127.0.0.1:8080", f"127.0.0.1:{backend_port}"),
            )
            header = "{\n    admin off\n    auto_https disable_redirects\n}\n"
            port = stack.enter_context(caddy(header + config, folder))
        url = f"https://{HOST}:{port}"
        settings = load(
            data_dir=folder / "data",
            models_dir=folder / "models",
            web={
                "port": backend_port,
                "public_url": url,
                "trusted_proxies": ["127.0.0.1"],
                "api_tokens": [TOKEN],
            },
            limits={"jobs_per_hour": PER_HOUR},
            workers={"devices": ["cpu"], "threads": 1, "compile": False},
        )
        stack.enter_context(served(settings))
        yield Proxied(url, trust)


def form(content: bytes, filename: str = "short.wav") -> aiohttp.FormData:
    data = aiohttp.FormData()
    data.add_field("options", json.dumps({"model": "mini"}))
    data.add_field("file", io.BytesIO(content), filename=filename)  # aiohttp warns of large bytes
    return data


def wav_of(size_bytes: int) -> bytes:
    """Make silence with one click, in 16-bit stereo."""
    frames = (size_bytes - 44) // 4
    head = b"RIFF" + (36 + frames * 4).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    head += (1).to_bytes(2, "little") + (2).to_bytes(2, "little") + (44100).to_bytes(4, "little")
    head += (176400).to_bytes(4, "little") + (4).to_bytes(2, "little") + (16).to_bytes(2, "little")
    head += b"data" + (frames * 4).to_bytes(4, "little")
    return head + b"\x00\x40" * 2 + bytes((frames - 1) * 4)


async def submit(client: aiohttp.ClientSession, content: bytes) -> tuple[str, str]:
    """Submit a file and return the job's id and the URL of its page."""
    async with client.post("/api/stemify", data=form(content)) as response:
        assert response.status == 202, await response.text()
        return (await response.json())["jobId"], str(response.links["alternate"]["url"])


async def events(client: aiohttp.ClientSession, path: str) -> AsyncGenerator[dict[str, Any], None]:
    async with client.get(path) as response:
        assert response.status == 200 and response.content_type == "text/event-stream"
        async for line in response.content:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


async def test_large_upload_and_live_events_pass_proxy(proxied: Proxied) -> None:
    async with proxied.client("127.0.0.10") as client:
        job_id, _ = await submit(client, wav_of(LARGE_BYTES))
        async with asyncio.timeout(60), contextlib.aclosing(events(client, f"/api/jobs/{job_id}/events")) as stream:
            first = await anext(stream)
            assert first["status"] in ("pending", "processing"), "the stream is open while the job runs"
            async with client.delete(f"/api/jobs/{job_id}") as response:
                assert response.status == 200
            last = [event async for event in stream][-1]
        assert last["status"] == "failed"


async def test_stems_and_page_pass_proxy_with_ranges_and_links(proxied: Proxied, song: bytes) -> None:
    async with proxied.client("127.0.0.11") as client, proxied.client("127.0.0.11", Accept="text/html") as visitor:
        job_id, page = await submit(client, song)
        assert page.startswith(f"{proxied.url}/jobs/")
        async with asyncio.timeout(90):
            states = [event["status"] async for event in events(client, f"/api/jobs/{job_id}/events")]
        assert states[-1] == "completed"
        async with client.get(f"/api/jobs/{job_id}") as response:
            link = (await response.json())["result"]["stems"]["vocals"]["cdnUrl"]
        assert link.startswith(f"{proxied.url}/files/")
        async with visitor.get(link) as response:
            whole = await response.read()
            etag = response.headers["ETag"]
        for wanted, part in (("0-1", whole[:2]), ("100-199", whole[100:200]), ("-50", whole[-50:])):
            async with visitor.get(link, headers={"Range": f"bytes={wanted}", "If-Range": etag}) as response:
                assert (response.status, await response.read()) == (206, part), wanted
        async with visitor.get(page) as response:
            assert (response.status, response.content_type) == (200, "text/html")
        for data in (page.replace("?", "/player.json?"), page.replace("/jobs/", "/api/jobs/").replace("?", "/events?")):
            async with visitor.get(data) as response:
                assert response.status == 200, data
                assert job_id in await response.text()
        async with client.get(f"/api/jobs/{job_id}/stems.zip") as response:
            assert len(await response.read()) == int(response.headers["Content-Length"])


async def test_token_and_origin_are_checked_behind_proxy(proxied: Proxied, song: bytes) -> None:
    async with (
        proxied.client("127.0.0.12", Accept="*/*") as stranger,
        stranger.post("/api/stemify", data=form(song)) as response,
    ):
        assert (response.status, (await response.json())["error"]["code"]) == (401, "no_token")
    async with proxied.client("127.0.0.12") as client:
        for origin, status in ((proxied.url, 202), ("https://evil.example", 403)):
            async with client.post("/api/stemify", data=form(song), headers={"Origin": origin}) as response:
                assert response.status == status, await response.text()


async def test_quota_counts_client_addresses_behind_proxy(proxied: Proxied, song: bytes) -> None:
    forged = {"X-Forwarded-For": "203.0.113.7"}
    async with proxied.client("127.0.0.13") as client, proxied.client("127.0.0.14") as other:
        for _ in range(PER_HOUR):
            await submit(client, song)
        async with client.post("/api/stemify", data=form(song), headers=forged) as response:
            assert response.status == 429, "a forged address has no separate quota"
            assert "Retry-After" in response.headers
        await submit(other, song)


async def test_refusal_of_large_upload_arrives_through_proxy(proxied: Proxied) -> None:
    async with (
        proxied.client("127.0.0.15", Accept="*/*") as stranger,
        stranger.post("/api/stemify", data=form(wav_of(LARGE_BYTES))) as response,
    ):
        assert (response.status, (await response.json())["error"]["code"]) == (401, "no_token")


async def test_upload_over_proxy_limit_is_413(proxied: Proxied) -> None:
    async with (
        proxied.client("127.0.0.16") as client,
        client.post("/api/stemify", data=form(wav_of(54 * 2**20))) as response,
    ):
        assert response.status == 413
