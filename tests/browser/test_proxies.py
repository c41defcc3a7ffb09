"""Messages of the pages about responses of a proxy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from tests.browser.conftest import Site
from tests.browser.pages import submit
from tests.fakes.reverse_proxies import nginx
from tests.fakes.slow_line import Line
from tests.fixtures.chromium import Browser
from tests.fixtures.songs import make_song

HTML = "text/html"
JSON = "application/json"


def answer(
    status: str, body: str = "<html><body><h1>Sorry</h1></body></html>", *headers: str, kind: str = HTML
) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def error_shown(browser: Browser) -> str:
    browser.until("return document.getElementById('error').checkVisibility()")
    return browser.find_element(By.ID, "error").text


def shown(browser: Browser) -> str:
    """Wait for the error, or for the words that the song will be sent again."""
    words: str = browser.until(
        """
        const error = document.getElementById("error"), { textContent } = document.getElementById("sent-words");
        return error.checkVisibility() ? error.textContent : textContent.includes("sent again") && textContent;
        """
    )
    return words


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "sunny.wav"
    make_song(path, seconds=12)  # 2 MB: more than nginx's default limit
    return path


CASES = {
    "400": (answer("400 Bad Request"), "delete this site's cookies"),
    "401": (answer("401 Unauthorized", "login", "WWW-Authenticate: Negotiate"), "asks for a login"),
    "403": (answer("403 Forbidden"), "firewall"),
    "404": (answer("404 Not Found"), "does not forward this address"),
    "405": (answer("405 Not Allowed"), "does not forward this address"),
    "408": (answer("408 Request Timeout"), "client_body_timeout"),
    "413": (answer("413 Payload Too Large"), "client_max_body_size 51m"),
    "413 without a body": (answer("413 Request Entity Too Large", ""), "Stemify itself accepts 50 MB"),
    "418": (answer("418 I'm a teapot"), "status 418"),
    "429": (answer("429 Too Many Requests"), "too many requests"),
    "502": (answer("502 Bad Gateway"), "status 502"),
    "503": (answer("503 Service Unavailable"), "status 503"),
    "504": (answer("504 Gateway Time-out"), "status 504"),
    "522": (answer("522 Origin Connection Time-out", "error code: 522"), "status 522"),
    "JSON of a gateway": (answer("429 Too Many Requests", '{"message": "slow down"}', kind=JSON), "too many requests"),
    "JSON error text": (answer("403 Forbidden", '{"error": "denied"}', kind=JSON), "firewall"),
    "JSON error number": (
        answer("502 Bad Gateway", '{"error": {"code": 502, "message": "x"}}', kind=JSON),
        "status 502",
    ),
    "login page": (answer("200 OK", "<html>Log in</html>"), "login page"),
    "redirect to another site": (answer("302 Found", "", "Location: https://login.invalid/"), "login page"),
}


@pytest.mark.parametrize("case", CASES)
def test_proxy_answer_to_upload_is_explained_by_status(browser: Browser, site: Site, song: Path, case: str) -> None:
    raw, words = CASES[case]
    with Line(site.url) as line:
        browser.get(f"{line.url}/")
        browser.until("return document.getElementById('model').options.length > 0")
        line.answer(raw)
        browser.find_element(By.ID, "file").send_keys(str(song))
        browser.find_element(By.ID, "go").click()
        found = shown(browser)
    assert words in found and "undefined" not in found


def test_login_page_in_place_of_data_is_explained(browser: Browser, site: Site) -> None:
    with Line(site.url) as line:
        browser.get(f"{line.url}/")
        line.answer(answer("200 OK", "<html>Log in</html>"))
        message = browser.run_async(
            "const { ask } = await import('/static/api.js');"
            "return ask('/choices.json').catch((error) => error.message);"
        )
    assert "login page" in message and "JSON" not in message


def test_404_of_proxy_is_not_a_deleted_job(browser: Browser, site: Site) -> None:
    is_gone = (
        "const { ask, isGone } = await import('/static/api.js');"
        "return ask('/jobs/0199aa00-0000-7000-8000-000000000000/player.json').catch(isGone);"
    )
    with Line(site.url) as line:
        browser.get(f"{line.url}/")
        assert browser.run_async(is_gone) is True
        line.answer(answer("404 Not Found"))
        assert browser.run_async(is_gone) is False


def test_default_nginx_limit_is_named_on_the_page(browser: Browser, site: Site, song: Path, tmp_path: Path) -> None:
    block = f"server {{ listen 127.0.0.1:PORT; location / {{ proxy_pass {site.url}; }} }}"
    with nginx(block, tmp_path) as port:
        submit(browser, replace(site, url=f"http://127.0.0.1:{port}"), song)
        shown = error_shown(browser)
    assert "client_max_body_size 51m" in shown and "50 MB" in shown


def test_nginx_without_public_url_names_the_setting(browser: Browser, site: Site, tmp_path: Path) -> None:
    short = tmp_path / "short.wav"
    make_song(short, seconds=1)
    block = f"server {{ listen 127.0.0.1:PORT; location / {{ proxy_pass {site.url}; }} }}"
    with nginx(block, tmp_path) as port:
        submit(browser, replace(site, url=f"http://127.0.0.1:{port}"), short)
        shown = error_shown(browser)
    assert "STEMIFY_WEB__PUBLIC_URL" in shown and "web site" not in shown


def test_unknown_host_behind_nginx_is_a_page_with_style(browser: Browser, site: Site, tmp_path: Path) -> None:
    name = "proxy_set_header Host stems.example.org;"
    block = f"server {{ listen 127.0.0.1:PORT; location / {{ proxy_pass {site.url}; {name} }} }}"
    with nginx(block, tmp_path) as port:
        browser.get(f"http://127.0.0.1:{port}/")
        assert "STEMIFY_WEB__PUBLIC_URL" in browser.find_element(By.CLASS_NAME, "notice").text
        assert browser.execute_script("return document.styleSheets[0].cssRules.length") > 0
