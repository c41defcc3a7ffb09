from __future__ import annotations

import socket
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadLink
from engine.sources.youtube.link import VideoLink, parse_link, video_ids_in
from tests.fixtures.hostile_links import HOSTILE, ID

ids = st.text(string.ascii_letters + string.digits + "_-", min_size=11, max_size=11).filter(
    lambda text: text not in ("videoseries", "live_stream")  # YouTube uses these for embedded lists
)
addresses = st.sampled_from(
    [
        "https://www.youtube.com/watch?v={}",
        "http://youtube.com/watch?v={}",
        "https://m.youtube.com/watch?app=desktop&v={}",
        "https://music.youtube.com/watch?v={}&list=RDAMVM",
        "HTTPS://WWW.YouTube.COM/watch?v={}",
        "https://www.youtube.com:443/watch?v={}",
        "http://youtu.be:80/{}",
        "https://youtu.be/{}?si=AbC-dEf_123&t=42",
        "https://www.youtube.com/shorts/{}",
        "https://www.youtube.com/shorts/{}?feature=share",
        "https://www.youtube.com/watch?v={}&embeds_referring_euri=https%3A%2F%2Fdiscord.com%2F",
        "https://www.youtube.com/watch?v={}&t=1m3s#comments",
        "www.youtube.com/watch?v={}",
        "youtu.be/{}",
        "https://www.youtube.com/live/{}",
        "https://youtube.com/live/{}?si=AbC-dEf_123&feature=shared",
        "https://m.youtube.com/live/{}/",
        "https://www.youtube.com/embed/{}",
        "https://www.youtube.com/embed/{}?start=30&autoplay=1",
        "https://www.youtube-nocookie.com/embed/{}",
        "youtube-nocookie.com/embed/{}?rel=0",
        "https://www.youtube.com/v/{}",
        "https://www.youtube.com/v/{}?version=3&hl=en",
        "https://www.youtube.com/v/{}&hl=en&fs=1",
        "https://www.youtube.com/watch/?v={}",
        "https://www.youtube.com/shorts/{}/",
        "https://youtu.be/{}/",
        "https://youtu.be/{}/?t=5",
        "https://www.youtube.com/watch?v={}/",
        "https://www.youtube.com/watch?v={}&ab_channel=Beyoncé",
        "https://www.youtube.com/watch?ab_channel=椎名林檎&v={}",
        "https://youtu.be/{}?si=x&pp=ygUFw7bDpMO8ö",
        "https://www.youtube.com/watch?v={}#Refrain-für-alle",
        "https://www.youtube.com/watch?app=desktop&amp;v={}",
        "https://www.youtube.com/watch?v={}&amp;feature=share",
        "https://www.youtube.com/attribution_link?a=8g8kPrPIi-ecwIsS&u=/watch%3Fv%3D{}%26feature%3Dem-uploademail",
        "http://www.youtube.com/attribution_link?u=%2Fwatch%3Fv%3D{}&a=1",
        "YOUTU.BE/{}",
        "HTTP://M.YOUTUBE.COM/live/{}",
    ]
)


@given(ids, addresses)
def test_every_address_form_gives_canonical_link(video_id: str, address: str) -> None:
    assert parse_link(address.format(video_id)) == VideoLink(video_id, f"https://www.youtube.com/watch?v={video_id}")


@pytest.mark.parametrize(
    "message",
    [
        "can you split https://youtu.be/{} please?",
        "can you split https://youtu.be/{}?",
        "https://youtu.be/{}, thanks",
        "This one: https://youtu.be/{}.",
        "(https://youtu.be/{})",
        "<https://youtu.be/{}>",
        "||https://youtu.be/{}||",
        "**https://youtu.be/{}**",
        "_https://youtu.be/{}_",
        '"https://youtu.be/{}"',
        "[my song](https://youtu.be/{})",
        "[my song](<https://youtu.be/{}>)",
        "https://example.org/a-review and https://youtu.be/{}",
        "https://youtu.be/{0} (again: https://www.youtube.com/watch?v={0})",
        "line one\nhttps://youtu.be/{}\nline three",
        "聴いて https://youtu.be/{}。",
        "听这个https://youtu.be/{}",
        "\u200bhttps://youtu.be/{}",
    ],
)
@pytest.mark.parametrize("video_id", [ID, "-----------", "_9bZkp7q19_", "abcdefghij-"])
def test_link_inside_message_is_found(message: str, video_id: str) -> None:
    assert parse_link(message.format(video_id)).video_id == video_id


def test_playlist_in_address_is_ignored() -> None:
    link = parse_link(f"https://www.youtube.com/watch?v={ID}&list=PL0123456789&index=3")
    assert link.url == f"https://www.youtube.com/watch?v={ID}"


def test_there_are_at_least_200_hostile_addresses() -> None:
    assert len(set(HOSTILE)) >= 200


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the parser went to the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_address_is_refused_without_a_request(text: str) -> None:
    with pytest.raises(BadLink):
        parse_link(text)


def test_two_videos_in_message_are_refused() -> None:
    with pytest.raises(BadLink, match="more than one video"):
        parse_link(f"https://youtu.be/{ID} or https://youtu.be/aaaaaaaaaaa")


@given(st.text() | st.text("htps:/youbem.cwa?v=&#@%\\ \n" + ID, max_size=80))
def test_any_text_gives_valid_id_or_bad_link(text: str) -> None:
    try:
        link = parse_link(text)
    except BadLink:
        return
    assert video_ids_in(text) == [link.video_id]
    assert link.video_id in text
    assert VideoLink.of(link.video_id) == link


@given(st.text("abc./:@%#?&=\\-", min_size=1, max_size=20), addresses)
def test_userinfo_never_changes_link_target(before: str, address: str) -> None:
    try:
        link = parse_link(before + address.format(ID))
    except BadLink:
        return
    assert link.url == f"https://www.youtube.com/watch?v={ID}"


@pytest.mark.parametrize("video_id", ["", "short", ID + "x", "dQw4w9WgXc/", "../../../ab", "dQw4w9WgXc\n"])
def test_link_requires_valid_id(video_id: str) -> None:
    with pytest.raises(BadLink):
        VideoLink.of(video_id)
