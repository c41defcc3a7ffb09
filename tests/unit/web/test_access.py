"""Access control: addresses, tokens, links, hosts and origins."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigurationError
from tests.fixtures.web_backend import TOKEN, WebServer, open_web_server

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
BEARER = {"Authorization": f"Bearer {TOKEN}"}


async def submit(server: WebServer, **headers: str) -> int:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    json = {"youtubeUrl": "https://youtu.be/dQw4w9WgXcQ"}
    async with server.client.post("/api/stemify", json=json, headers=sent) as response:
        await response.read()
        return response.status


async def owner_of(server: WebServer, forwarded: str) -> str:
    assert await submit(server, X_Forwarded_For=forwarded) == 202
    return server.service.submissions[-1].owner


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "", "stems.example.org"])
async def test_non_loopback_host_requires_a_token(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigurationError, match="STEMIFY_WEB__API_TOKENS"):
        async with open_web_server(tmp_path, host=host):
            pass
    async with open_web_server(tmp_path, host=host, api_tokens=[TOKEN]):
        pass


@pytest.mark.parametrize("setting", ["public_url", "cdn_url"])
async def test_public_address_without_token_is_refused(tmp_path: Path, setting: str) -> None:
    for url in (
        "https://stems.example.org",
        "http://10.0.0.1:8080",
        "https://127.0.0.1.nip.io",
        "http://[2001:db8::1]",
    ):
        address: dict[str, Any] = {setting: url}
        with pytest.raises(ConfigurationError, match=f"STEMIFY_WEB__{setting.upper()} is .*STEMIFY_WEB__API_TOKENS"):
            async with open_web_server(tmp_path, **address):
                pass
        async with open_web_server(tmp_path, api_tokens=[TOKEN], **address) as server:
            assert await submit(server) == 401
            assert await submit(server, **BEARER) == 202


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9000", "http://localhost", "http://[::1]:8080", "http://a.localhost"]
)
async def test_loopback_public_address_needs_no_token(tmp_path: Path, url: str) -> None:
    async with open_web_server(tmp_path, public_url=url) as server:
        assert await submit(server) == 202


async def test_open_setting_serves_public_address_without_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_web_server(tmp_path, public_url="https://stems.example.org", open=True) as server:
        assert await submit(server, Host="stems.example.org") == 202
        assert await submit(server, Host="evil.example") == 421
        assert await submit(server, Host="10.1.2.3") == 421, "it listens on loopback only"
    assert caplog.text.count("the API is open") == 1
    async with open_web_server(tmp_path, host="0.0.0.0", open=True) as server:
        assert await submit(server, Host="10.1.2.3:8080") == 202
        assert await submit(server, Host="evil.example") == 421, "a rebound name"


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "CF-Connecting-IP"])
async def test_untrusted_proxy_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, header: str) -> None:
    async with open_web_server(tmp_path) as server:
        assert await submit(server) == 202
        assert "STEMIFY_WEB__TRUSTED_PROXIES" not in caplog.text
        for _ in range(2):
            assert await submit(server, **{header.replace("-", "_"): "for=203.0.113.9"}) == 202
    assert caplog.text.count("STEMIFY_WEB__TRUSTED_PROXIES") == 1
    assert "127.0.0.1" in caplog.text and "203.0.113.9" not in caplog.text


async def test_trusted_proxy_without_client_address_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_web_server(tmp_path, trusted_proxies=["127.0.0.1"]) as server:
        assert await submit(server, X_Forwarded_For="203.0.113.9") == 202
        assert "X-Forwarded-For" not in caplog.text
        assert await submit(server, Forwarded="for=203.0.113.9") == 202
    assert caplog.text.count("sends no X-Forwarded-For") == 1


async def test_short_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="shorter than 16"):
        async with open_web_server(tmp_path, api_tokens=["hunter2"]):
            pass


async def test_invalid_trusted_proxy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TRUSTED_PROXIES"):
        async with open_web_server(tmp_path, trusted_proxies=["nginx"]):
            pass


async def test_untrusted_forwarded_header_is_ignored(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, trusted_proxies=["10.0.0.0/8"]) as server:
        assert await owner_of(server, "203.0.113.9") == "ip:127.0.0.1"


async def test_forwarded_header_is_read_from_the_right(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, per_hour=99, trusted_proxies=["127.0.0.1", "10.0.0.0/8"]) as server:
        assert await owner_of(server, "203.0.113.9") == "ip:203.0.113.9"
        assert await owner_of(server, "1.1.1.1, 203.0.113.9, 10.2.3.4") == "ip:203.0.113.9"
        assert await owner_of(server, "1.1.1.1, 203.0.113.9:4711") == "ip:203.0.113.9"
        assert await owner_of(server, "[2001:db8:1:2:3::4]:4711") == "ip:2001:db8:1:2::/64"
        assert await owner_of(server, "2001:db8:1:2:ffff::1") == "ip:2001:db8:1:2::/64"
        assert await owner_of(server, "::ffff:203.0.113.9") == "ip:203.0.113.9"
        assert await owner_of(server, "1.1.1.1, nonsense") == "ip:127.0.0.1"
        assert await owner_of(server, "10.1.1.1") == "ip:10.1.1.1"


async def test_quota_is_counted_per_address(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, trusted_proxies=["127.0.0.1"]) as server:
        for _ in range(5):
            assert await submit(server, X_Forwarded_For="203.0.113.9") == 202
        assert await submit(server, X_Forwarded_For="203.0.113.9") == 429
        assert await submit(server, X_Forwarded_For="203.0.113.10") == 202


async def test_api_with_tokens_requires_one(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, api_tokens=["another-token-of-length", TOKEN]) as server:
        for header in ("", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer ü"):
            assert await submit(server, Authorization=header) == 401, header
        assert await submit(server, Authorization=f"Bearer {TOKEN}") == 202
        assert await submit(server, Authorization=f"bearer {TOKEN}") == 202


OPEN = {"/healthz", "/readyz", "/api/openapi.json", "/files/{key}"}
PAGES = {"engine.web.pages", "engine.web.page_api", "engine.web.stage"}  # they check signed links


async def test_only_listed_paths_are_open_without_token(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, api_tokens=[TOKEN]) as server:
        seen = set()
        for route in server.app.router.routes():
            path = route.resource.canonical if route.resource else ""
            if path in OPEN or route.handler.__module__ in PAGES or path.startswith("/static"):
                continue
            seen.add(path)
            target = path.replace("{job_id}", "0199aa00-0000-7000-8000-000000000000")
            async with server.client.request(route.method, target, data=b"x") as response:
                assert response.status == 401, (route.method, path)
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert {"/api/stemify", "/api/jobs/{job_id}/events", "/metrics"} <= seen


async def test_page_link_opens_only_its_own_job(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, api_tokens=[TOKEN]) as server:
        job_ids = []
        for _ in range(2):
            async with server.client.post(
                "/api/stemify", json={"youtubeUrl": "https://youtu.be/dQw4w9WgXcQ"}, headers=BEARER
            ) as response:
                job_ids.append((await response.json())["jobId"])
        await server.service.complete(job_ids[0])
        query = ((await server.service.get(job_ids[0])).page_url or "").partition("?")[2]
        for ending in ("", "/events", "/stems.zip"):
            for job_id, key, status in [(job_ids[0], query, 200), (job_ids[1], query, 401), (job_ids[0], "", 401)]:
                async with server.client.get(f"/api/jobs/{job_id}{ending}?{key}") as response:
                    assert response.status == status, ending
        async with server.client.delete(f"/api/jobs/{job_ids[0]}?{query}") as response:
            assert response.status == 401
        async with server.client.delete(f"/api/jobs/{job_ids[0]}", headers=BEARER) as response:
            assert response.status == 204


async def test_token_cannot_cancel_discord_job(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, api_tokens=[TOKEN]) as server:
        await submit(server, **BEARER)
        job_id = next(iter(server.service.jobs))
        await server.service.change(job_id, owner="discord:1")
        async with server.client.delete(f"/api/jobs/{job_id}", headers=BEARER) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (403, "not_allowed")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil", "[bad"]
)
async def test_rebound_host_is_refused(tmp_path: Path, host: str) -> None:
    async with open_web_server(tmp_path) as server:
        job_id = await server.job(done=True)
        for path in (f"/api/jobs/{job_id}", "/", "/metrics"):
            async with server.client.get(path, headers={"Host": host}) as response:
                assert response.status == 421, path


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.1", "[::1]:80", "stems.example.org", "LOCALHOST"])
async def test_own_host_names_are_accepted(tmp_path: Path, host: str) -> None:
    async with (
        open_web_server(tmp_path, public_url="https://stems.example.org/", open=True) as server,
        server.client.get("/healthz", headers={"Host": host}) as response,
    ):
        assert response.status == 200


async def test_cross_site_submit_and_delete_are_refused(tmp_path: Path) -> None:
    async with open_web_server(tmp_path, public_url="https://stems.example.org", open=True) as server:
        job_id = await server.job()
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://[bad", ""):
            assert await submit(server, Origin=origin) == 403, origin
            async with server.client.delete(f"/api/jobs/{job_id}", headers={"Origin": origin}) as response:
                assert (response.status, (await response.json())["error"]["code"]) == (403, "cross_site")
        assert await submit(server, Sec_Fetch_Site="cross-site") == 403
        assert await submit(server, Sec_Fetch_Site="same-site") == 403
        assert job_id in server.service.jobs
        assert await submit(server, Origin=server.url) == 202
        assert await submit(server, Origin="https://stems.example.org", Sec_Fetch_Site="same-origin") == 202


async def test_origin_without_public_url_names_the_setting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_web_server(tmp_path) as server:
        for origin in ("https://stems.example.org", "http://127.0.0.1:1", "https://stems.example.org"):
            async with server.client.post("/api/stemify", headers={"Origin": origin}) as response:
                error = (await response.json())["error"]
            assert (response.status, error["code"]) == (403, "public_url_missing"), origin
            assert "STEMIFY_WEB__PUBLIC_URL" in error["message"] and "Another" not in error["message"]
        async with server.client.post("/api/stemify", headers={"Origin": "null"}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (403, "cross_site")
    hints = [record.getMessage() for record in caplog.records if "STEMIFY_WEB__PUBLIC_URL" in record.getMessage()]
    assert len(hints) == 1 and "https://stems.example.org" in hints[0]


async def test_other_origin_with_public_url_names_that_address(tmp_path: Path) -> None:
    async with (
        open_web_server(tmp_path, public_url="https://stems.example.org", open=True) as server,
        server.client.post("/api/stemify", headers={"Origin": "https://evil.example"}) as response,
    ):
        assert "Open Stemify at its own address, https://stems.example.org" in await response.text()


@pytest.mark.parametrize("public_url", ["https://stems.example.org:443", "https://Stems.Example.org"])
async def test_public_url_with_default_port_matches_origin(tmp_path: Path, public_url: str) -> None:
    async with open_web_server(tmp_path, public_url=public_url, open=True) as server:
        assert await submit(server, Origin="https://stems.example.org") == 202
        assert await submit(server, Origin="https://stems.example.org:8443") == 403


async def test_unknown_host_is_html_for_browsers_json_for_programs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hosts = {"Host": "stems.example.org"}
    async with open_web_server(tmp_path) as server:
        for path in ("/", "/jobs/1", "/nothing"):
            async with server.client.get(path, headers=hosts | BROWSER) as response:
                assert (response.status, response.content_type) == (421, "text/html"), path
                assert "STEMIFY_WEB__PUBLIC_URL" in await response.text()
            async with server.client.get(path, headers=hosts) as response:
                assert (response.status, response.content_type) == (421, "application/json"), path
                error = (await response.json())["error"]
                assert error["code"] == "wrong_host" and "STEMIFY_WEB__PUBLIC_URL" in error["message"]
        async with server.client.get("/static/style.css", headers=hosts) as response:
            assert response.status == 200, "the page's style"
    assert sum("STEMIFY_WEB__PUBLIC_URL" in record.getMessage() for record in caplog.records) == 1


async def test_hostile_host_is_escaped_in_log_and_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    host = "<script>\x9b31m" + "a" * 1000
    head = f"GET / HTTP/1.1\r\nHost: {host}\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
    async with open_web_server(tmp_path) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        writer.write(head.encode("utf-8"))
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 421") and b"<script>" not in answer
    said = [record.getMessage() for record in caplog.records]
    assert any("<script>" in line for line in said)
    assert all(len(line) < 500 and "\x9b" not in line for line in said)


async def test_cross_site_reads_are_not_allowed(tmp_path: Path) -> None:
    async with open_web_server(tmp_path) as server:
        async with server.client.get("/healthz", headers={"Origin": "https://evil.example"}) as response:
            assert not [name for name in response.headers if name.lower().startswith("access-control-")]
        async with server.client.options("/api/stemify", headers={"Origin": "https://evil.example"}) as response:
            assert response.status == 405
