from __future__ import annotations

import json
import logging
import sys

import pytest

from engine.logs import configure, redact


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("GET /files/jobs/1/a1/x.mp3?e=12&s=abcDEF123 200", "abcDEF123"),
        ("https://cdn.discordapp.com/a/b/c.mp3?ex=66&is=77&hm=deadbeef", "deadbeef"),
        ("Authorization: Bot MTIz.abc.def-ghi", "MTIz"),
        ("Authorization: Bearer sometoken123", "sometoken123"),
        ("POST /webhooks/1234/aW50ZXJhY3Rpb246dG9rZW4/messages", "aW50ZXJhY3Rpb246dG9rZW4"),
        ("token MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs", "ZnCjm1XVW7vRze4b7Cq4se7kKWs"),
        ("https://s3.example/a?X-Amz-Credential=AKIA1%2Fx&X-Amz-Signature=0a1b2c3d4e", "0a1b2c3d4e"),
        ("https://s3.example/a?X-Amz-Security-Token=FwoGZXIvYXdz", "FwoGZXIvYXdz"),
        ("https://storage.googleapis.com/a?X-Goog-Signature=99aabb", "99aabb"),
        ("https://a.blob.core.windows.net/b?sv=2024&sig=Zm9v%3D", "Zm9v"),
        ("https://r1.googlevideo.com/videoplayback?lsig=APaTxxMw&n=1", "APaTxxMw"),
        ("GET /v1/jobs?access_token=abcdefgh", "abcdefgh"),
        ("GET /v1/jobs?api_key=abcdefgh&x=1", "abcdefgh"),
        ("cannot connect to http://anna:geheim@proxy.example:8080/", "geheim"),
        ("socks5://anna:geheim@10.0.0.1", "geheim"),
        ("Authorization: Basic YW5uYTpnZWhlaW0=", "YW5uYTpnZWhlaW0"),
        ("403 for hf_AbCdEfGhIjKlMnOpQrStUvWx", "AbCdEfGh"),
        ("environment: AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMIK7MDENG", "wJalrXUtnFEMIK7MDENG"),
        ("{'api_token': 'c2VjcmV0LXRva2Vu'}", "c2VjcmV0LXRva2Vu"),
        ("POST https://discord.com/api/interactions/12/aW50ZXJhY3Rpb246dG9rZW4/callback", "aW50ZXJhY3Rpb246dG9rZW4"),
        ("socks5h://me:p@ss:hunter2@[::1]:1080 refused", "hunter2"),
        ("proxy http://me:it's-hunter2@[::1]:1080 refused", "hunter2"),
        ("HTTPSConnectionPool: me:hunter2@proxy:8080 refused", "hunter2"),
        ("https://a.example/x#access_token=hunter2", "hunter2"),
        ("STEMIFY_DISCORD__TOKEN=hunter2 is not a token", "hunter2"),
        ("headers={'Authorization': 'AWS4-HMAC-SHA256 Signature=hunter2, x'}", "hunter2"),
        ("((b'Cookie', b'SID=a; HSID=hunter2'),)", "hunter2"),
        ("<CIMultiDictProxy('Set-Cookie': 'a=b; c=hunter2; Path=/')>", "hunter2"),
        ("HTTP Error 403 https://rr1---sn.googlevideo.com/videoplayback?n=1&pot=hunter2&lsig=AG", "hunter2"),
        ("https://manifest.googlevideo.com/api/manifest/hls_playlist/expire/1/sig/hunter2/x.m3u8", "hunter2"),
    ],
)
@pytest.mark.parametrize("json_lines", [False, True])
def test_secrets_are_redacted(text: str, secret: str, json_lines: bool, capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO", json_lines=json_lines)
    try:
        raise OSError(text)
    except OSError as error:
        logging.getLogger("engine.test").exception("failed: %s", error, extra={"reason": error, "about": [text]})
    lines = capsys.readouterr().err
    assert "failed: " in lines and "OSError" in lines and secret not in lines


@pytest.mark.parametrize("part", ["a:", "a.", "a-", ":", "://", "a:,", "token", "?a", "cookie", "Bearer ", "\u200b"])
def test_long_text_is_redacted_in_linear_time(part: str) -> None:
    assert len(redact(part * 100_000)) > 100


def test_uncaught_error_is_redacted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.excepthook", sys.excepthook)
    configure("INFO", json_lines=False)
    sys.excepthook(OSError, OSError("http://me:hunter2@proxy"), None)
    lines = capsys.readouterr().err
    assert "OSError: http://" in lines and "hunter2" not in lines


@pytest.mark.parametrize(
    "line",
    [
        "job 0199-77 completed in 12.3 s, attempt 1",
        "the bot reconnected; basic authentication failed; bearer expected",
        "song analysed key=Fm tempo=124",
        "https://www.youtube.com/watch?v=abcdefghijk&t=10",
        "Discord refused the token: expired",
        "see https://example.org/@artist/song",
    ],
)
def test_ordinary_lines_are_unchanged(line: str) -> None:
    assert redact(line) == line


def test_json_log_is_one_object_per_event(capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO", json_lines=True)
    try:
        raise ValueError("at /files/x?e=1&s=secretsecret")
    except ValueError:
        logging.getLogger("engine.test").exception("it broke")
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert event["event"] == "it broke" and "job" not in event
    assert "ValueError" in event["error"] and "secretsecret" not in event["error"]


def test_log_lines_have_job_and_attempt_fields(capsys: pytest.CaptureFixture[str]) -> None:
    job = "01a205ec-fe8d-724b-8237-ca688e1702d8"
    configure("INFO", json_lines=True)
    logging.getLogger("engine.test").info("attempt started", extra={"job": job, "attempt": 2})
    logging.getLogger("engine.test").info("job accepted", extra={"job": job, "attempt": None})
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(event["event"], event["job"], event.get("attempt")) for event in events] == [
        ("attempt started", job, 2),
        ("job accepted", job, None),
    ]


def test_plain_line_ends_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO", json_lines=False)
    logging.getLogger("engine.test").info("job failed", extra={"job": "0199", "attempt": 2, "reason": "no space job=1"})
    assert capsys.readouterr().err.endswith('engine.test: job failed job=0199 attempt=2 reason="no space job=1"\n')


@pytest.mark.parametrize("json_lines", [False, True])
def test_fields_are_redacted_and_escaped(capsys: pytest.CaptureFixture[str], json_lines: bool) -> None:
    configure("INFO", json_lines=json_lines)
    logging.getLogger("engine.test").info("failed", extra={"url": "/files/x?e=1&s=secretsecret", "reason": FORGED})
    line = capsys.readouterr().err.removesuffix("\n")
    assert line.isprintable() and "secretsecret" not in line


FORGED = "/x\n2026-11-30 ERROR   engine: deleted\r\x1b[31mRED\x85\u2028\u202e\udcff\x00\u200b\ufeff\u206a\U000e0041"


@pytest.mark.parametrize("json_lines", [False, True])
def test_control_characters_are_escaped(capsys: pytest.CaptureFixture[str], json_lines: bool) -> None:
    configure("INFO", json_lines=json_lines)
    logging.getLogger("engine.test").info("GET %s", FORGED)
    line = capsys.readouterr().err
    assert line.endswith("\n") and line[:-1].isprintable()
    if json_lines:
        assert json.loads(line)["event"] == f"GET {FORGED}"


@pytest.mark.parametrize("json_lines", [False, True])
def test_exception_text_cannot_forge_a_line(capsys: pytest.CaptureFixture[str], json_lines: bool) -> None:
    configure("INFO", json_lines=json_lines)
    try:
        raise ValueError(FORGED)
    except ValueError:
        logging.getLogger("engine.test").exception("it broke")
    first, *others = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert "it broke" in first and first.isprintable()
    assert all(line.startswith("  | ") and line.isprintable() for line in others)
    assert len(others) == 0 if json_lines else len(others) > 2
