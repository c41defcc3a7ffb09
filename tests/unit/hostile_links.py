"""Addresses that look like a YouTube video to somebody, and must never be taken for one."""

from __future__ import annotations

ID = "dQw4w9WgXcQ"

OTHER_HOSTS = [
    f"https://{host}/watch?v={ID}"
    for host in (
        "evil.example", "youtube.com.evil.example", "www.youtube.com.evil.example", "evil-youtube.com",
        "notyoutube.com", "youtube.co", "youtube.org", "youtube.de", "youtube.comm", "youtube", "www.youtube",
        "yotube.com", "youtub.com", "youtubee.com", "yoütube.com", "you-tube.com", "youtube-com.example",
        "evil1.youtube.com", "studio.youtube.com", "gaming.youtube.com", "accounts.youtube.com", "www2.youtube.com",
        "www.www.youtube.com", "m.m.youtube.com", "www.m.youtube.com", "wwwyoutube.com", "www-youtube.com",
        ".youtube.com", "-.youtube.com", "youtube..com", "www..youtube.com", "youtube.com.", "www.youtube.com.",
        "youtube-nocookie.com", "www.youtube-nocookie.com", "youtubekids.com", "www.youtubekids.com",
        "yewtu.be", "invidious.io", "inv.nadeko.net", "piped.video", "vid.puffyan.us", "hooktube.com",
        "youtubeeducation.com", "deturl.com", "youtubei.googleapis.com", "googlevideo.com", "www.google.com",
        "youtube.googleapis.com", "i.ytimg.com", "xn--yutube-wqf.com", "ytimg.com", "vimeo.com", "www.youtu.be",
        "localhost", "localhost.localdomain", "metadata.google.internal", "discord.com", "cdn.discordapp.com",
    )
]  # fmt: skip
SHORT_HOSTS = [
    f"https://{host}/{ID}"
    for host in (
        "youtu.be.evil.example", "evil-youtu.be", "youtu.bee", "youtu.b", "youtube.be", "yout.be", "www.youtu.be",
        "m.youtu.be", "youtu.be.", "youtu..be", "xyoutu.be", "y0utu.be", "youtu-be.example", "youtu.be%2eexample",
    )
]  # fmt: skip
ADDRESSES = [
    f"http://{host}/watch?v={ID}"
    for host in (
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]",
        "10.0.0.1", "192.168.0.1", "172.16.0.1", "169.254.169.254", "[fd00:ec2::254]", "127.0.0.1.nip.io",
    )
]  # fmt: skip
USERINFO = [
    f"https://youtube.com@evil.example/watch?v={ID}",
    f"https://www.youtube.com@evil.example/watch?v={ID}",
    f"https://youtube.com:443@evil.example/watch?v={ID}",
    f"https://youtu.be@127.0.0.1/{ID}",
    f"https://user@www.youtube.com/watch?v={ID}",
    f"https://user:password@www.youtube.com/watch?v={ID}",
    f"https://:password@youtu.be/{ID}",
    f"https://@youtu.be/{ID}",
    f"https://:@youtu.be/{ID}",
    f"https://evil.example%40www.youtube.com/watch?v={ID}",
    f"https://www.youtube.com%40evil.example/watch?v={ID}",
    f"https://www.youtube.com\\@evil.example/watch?v={ID}",
    f"https://evil.example\\@www.youtube.com/watch?v={ID}",
    f"https://evil.example#@www.youtube.com/watch?v={ID}",
    f"https://evil.example?@www.youtube.com/watch?v={ID}",
    f"https://evil.example/@www.youtube.com/watch?v={ID}",
    f"https://evil.example;@www.youtube.com/watch?v={ID}",
]
PORTS = [
    f"https://www.youtube.com:{port}/watch?v={ID}"
    for port in ("80", "22", "8080", "8443", "0", "00443", "0443", "65536", "4430", "", "443:443", "٤٤٣", "-1", "443x")
] + [
    f"http://www.youtube.com:443/watch?v={ID}",
    f"http://youtu.be:8080/{ID}",
    f"https://youtu.be:80/{ID}",
    f"youtube.com:80/watch?v={ID}",
]
LOOK_ALIKES = [
    f"https://www.yоutube.com/watch?v={ID}",  # Cyrillic o
    f"https://www.youtubе.com/watch?v={ID}",  # Cyrillic e
    f"https://ｗｗｗ.youtube.com/watch?v={ID}",
    f"https://www.ｙoutube.com/watch?v={ID}",
    f"https://www。youtube。com/watch?v={ID}",
    f"https://www.youtube．com/watch?v={ID}",
    f"https://www.youtube.com／watch?v={ID}",
    f"https://www.youtube.com∕watch?v={ID}",
    f"https://www.youtube.com/watch？v={ID}",
    f"https://www.youtube.com/ｗatch?v={ID}",
    f"https:／／www.youtube.com/watch?v={ID}",
    f"ｈttps://www.youtube.com/watch?v={ID}",
    f"https：//www.youtube.com/watch?v={ID}",
    f"https://www.yⓞutube.com/watch?v={ID}",
    f"https://www.ʏoutube.com/watch?v={ID}",
    f"https://www.youtube.ⅽom/watch?v={ID}",
    f"https://www.youtube.c\u043em/watch?v={ID}",
    f"https://\u202ewww.youtube.com/watch?v={ID}",
    f"https://www.you\u200btube.com/watch?v={ID}",
    f"https://www.you\u00adtube.com/watch?v={ID}",
    f"https://www.youtube.com\u2060/watch?v={ID}",
    f"https://www.youtube.com/watch?v={ID}\u200b",
    f"https://youtu.be/\ufeff{ID}",
    "https://youtu.be/dQw4w9WgXcＱ",
    "https://youtu.be/dQw4w9WgX\u0441Q",  # Cyrillic s
    "https://youtu.be/d\u0301Qw4w9WgXcQ",
    "https://youtu.be/١٢٣٤٥٦٧٨٩٠١",
    "https://youtu.be/ſſſſſſſſſſſ",
    f"аyoutube.com/watch?v={ID}",  # Cyrillic a, no scheme
    f"https://Kyoutube.com/watch?v={ID}",  # Kelvin sign
]
SCHEMES = [
    f"{scheme}www.youtube.com/watch?v={ID}"
    for scheme in (
        "file://", "file:///", "ftp://", "javascript:", "javascript://", "data:text/html,", "gopher://", "ws://",
        "wss://", "ssh://", "//", "///", "https:", "https:/", "https:///", "https:\\\\", "htps://", "xhttps://",
        "http+unix://", "jar:https://", "view-source:https://", "blob:https://", "feed:https://", "ytsearch:",
        "youtube:", "vnd.youtube:", "intent://", "rtmp://", "concat:", "http://https://", "://",
    )
]  # fmt: skip
LOCAL_FILES = ["file:///etc/passwd", f"file:///tmp/{ID}.webm", f"/{ID}", f"../{ID}", f"C:\\{ID}", "\\\\host\\share"]
PATHS = [
    f"https://www.youtube.com/{path}"
    for path in (
        "", "watch", "watch?", "watch?v=", f"watch/{ID}", f"watch//?v={ID}", f"/watch?v={ID}", f"live/{ID}x",
        f"./watch?v={ID}", f"a/../watch?v={ID}", f"%77atch?v={ID}", f"watch%3Fv={ID}", f"watch;x=1?v={ID}",
        f"WATCH?v={ID}", f"watch.php?v={ID}", f"watch?x=/watch?v={ID}", f"watch#v={ID}", f"watch?V={ID}",
        f"watch?w={ID}", f"watch?vv={ID}", f"watch?v[]={ID}", f"watch?v%5B%5D={ID}", f"watch?%76={ID}",
        f"watch?v={ID}x", f"watch?v={ID[:-1]}", f"watch?v={ID}é", f"watch?v=é{ID}",
        f"watch?v={ID}%00", f"watch?v=%20{ID}", f"watch?v={ID}//",
        "watch?v=%64Qw4w9WgXcQ", f"watch?v={ID}%26v=aaaaaaaaaaa", f"watch?v={ID}&v=aaaaaaaaaaa", f"watch?v={ID};a=b",
        f"watch?v=../../{ID}", "watch?v=dQw4w9WgXc$", "watch?v=hello world", "watch?v=http://127", "watch?list=PLabc",
        "watch_videos?video_ids=a,b", f"watch?u=https://youtu.be/{ID}", f"shorts/{ID}/x", f"shorts/{ID}x",
        "shorts/", f"shorts?v={ID}", f"Shorts/{ID}", f"shorts//{ID}", f"embed?v={ID}", f"v?v={ID}", f"e/{ID}",
        f"embed//{ID}", f"v/{ID}/x", f"live/{ID}/x", f"LIVE/{ID}", f"live?v={ID}", f"embed/{ID}x", f"clip/{ID}",
        "embed/videoseries?list=PLabc", "embed/live_stream?channel=UCabc", f"embed/..%2f{ID}",
        f"playlist?list={ID}", f"channel/{ID}", f"@{ID}",
        f"user/{ID}", f"c/{ID}", f"results?search_query={ID}", f"feeds/videos.xml?v={ID}", f"attribution_link?v={ID}",
        f"oembed?url=https://youtu.be/{ID}", f"iframe_api?v={ID}", f"get_video_info?video_id={ID}", ID,
    )
]  # fmt: skip
REDIRECTS = [
    "https://www.youtube.com/redirect?q=http://127.0.0.1/",
    f"https://www.youtube.com/redirect?q=https%3A%2F%2Fevil.example&v={ID}",
    f"https://www.youtube.com/redirect?v={ID}",
    f"https://www.youtube.com/signin?next=/watch?v={ID}",
    f"https://www.youtube.com/attribution_link?u=https%3A%2F%2Fevil.example%2Fwatch%3Fv%3D{ID}",
    f"https://www.youtube.com/attribution_link?u=%2F%2Fevil.example%2Fwatch%3Fv%3D{ID}",
    f"https://www.youtube.com/attribution_link?u=%2Fredirect%3Fq%3Dhttps%3A%2F%2Fevil.example%26v%3D{ID}",
    f"https://www.youtube.com/attribution_link?u=%252Fwatch%253Fv%253D{ID}",
    "https://www.youtube.com/attribution_link?u=%2Fwatch%3Fv%3D%64Qw4w9WgXcQ",
    f"https://evil.example/attribution_link?u=%2Fwatch%3Fv%3D{ID}",
    f"https://www.youtube-nocookie.com/embed/{ID}@evil.example",
    f"https://youtube-nocookie.com.evil.example/embed/{ID}",
    f"https://m.youtube-nocookie.com/embed/{ID}",
    f"https://www.youtube-nocookie.com/live/{ID}",
    f"https://evil.youtube-nocookie.com/embed/{ID}",
    f"https://user@www.youtube-nocookie.com/embed/{ID}",
    f"https://www.youtube-nocookie.com:8080/embed/{ID}",
    f"https://www.youtube-nocookie.com/embed/videoseries?list={ID}",
    f"https://accounts.google.com/ServiceLogin?continue=https://www.youtube.com/watch?v={ID}",
    f"https://consent.youtube.com/m?continue=https://www.youtube.com/watch?v={ID}",
    f"https://www.google.com/url?q=https://www.youtube.com/watch?v={ID}",
    f"https://l.facebook.com/l.php?u=https://youtu.be/{ID}",
    f"https://evil.example/https://www.youtube.com/watch?v={ID}",
    f"https://evil.example/?https://youtu.be/{ID}",
    f"https://evil.example/?u=https://youtu.be/{ID}",
    f"https://evil.example/#https://youtu.be/{ID}",
    f"https://evil.example/例https://youtu.be/{ID}",
    f"evil.example/youtu.be/{ID}",
    f"evil.example:youtu.be/{ID}",
    f"evil.example?youtu.be/{ID}",
    f"https://web.archive.org/web/2020/https://youtu.be/{ID}",
    f"http://127.0.0.1/redirect?to=https://youtu.be/{ID}",
    f"https://bit.ly/{ID}",
    f"https://goo.gl/{ID}",
    f"https://t.co/{ID}",
]
SHORT_PATHS = [
    f"https://youtu.be/{path}"
    for path in (
        "", ID[:-1], f"{ID}x", f"{ID}//", f"{ID}/x", f"/{ID}", f"./{ID}", f"../{ID}", f"watch?v={ID}", f"?v={ID}",
        f"shorts/{ID}", f"{ID}%00", f"{ID}%0a", f"%64{ID[1:]}", f"{ID}\\evil", f"{ID}@evil.example", f"{ID};x",
        f"{ID}&t=1",
    )
]  # fmt: skip
CONTROL_CHARACTERS = [
    f"https://www.youtube.com/\0watch?v={ID}",
    f"https://youtu.be/{ID}\0",
    f"https://youtu.be/{ID}\x0b",
    f"https://youtu.be/\x1b[31m{ID}",
    f"https://you\x7ftu.be/{ID}",
    f"https://youtu.be/{ID}\x85evil",
    f"https://you\ntu.be/{ID}",
    f"https://you\ttu.be/{ID}",
    f"https://youtu.\r\nbe/{ID}",
    f"https://youtu.be/\n{ID}",
    f"https://youtu.be /{ID}",
]
BARE_WORDS = [ID, f"v={ID}", f"watch?v={ID}", "hello-world", f"ytsearch1:{ID}", f"https://{ID}", "PLabcdefghijklmnop"]
SEVERAL = [
    f"https://youtu.be/{ID} https://youtu.be/aaaaaaaaaaa",
    f"https://youtu.be/{ID}\nhttps://www.youtube.com/watch?v=aaaaaaaaaaa",
]

HOSTILE = [
    *OTHER_HOSTS, *SHORT_HOSTS, *ADDRESSES, *USERINFO, *PORTS, *LOOK_ALIKES, *SCHEMES, *LOCAL_FILES, *PATHS, *REDIRECTS,
    *SHORT_PATHS, *CONTROL_CHARACTERS, *BARE_WORDS, *SEVERAL,
]  # fmt: skip
