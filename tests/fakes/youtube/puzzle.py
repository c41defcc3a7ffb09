"""The challenges of YouTube's player, and a small player script that solves them.

The script has the shape that yt-dlp's solver expects of the real one.
"""

from __future__ import annotations

import secrets

PLAYER_PATH = "/s/player/0a1b2c3d/player_ias.vflset/en_US/base.js"
PLAYER_JS = """\
var _yt_player={};(function(g){var window=this;
var config={signatureTimestamp:20345};
var rotate=function(a,by){for(var i=0;i<by;i++){a.push(a.shift())}return a};
var Address=function(u){this.u=u;this.q={}};
Address.prototype.set=function(k,v){this.q[k]=v};
Address.prototype.get=function(k){return this.q[k]};
Address.prototype.clone=function(){return this};
Address.prototype.unthrottle=function(){var n=this.q.n;if(n){this.q.n=rotate(n.split("").reverse(),3).join("")}};
var unscramble=function(s){var a=s.split("");a.reverse();var first=a[0];a[0]=a[2];a[2]=first;return a.join("")};
var makeAddress=function(u,sp,s){var x=new Address(u);x.set("alr","yes");
if(s){x.set(sp,encodeURIComponent(unscramble(decodeURIComponent(s))))}return x};
})(_yt_player);
"""
UNREADABLE_PLAYER_JS = "var config={signatureTimestamp:20345};"  # a new player that no solver knows


def new_challenge() -> str:
    return secrets.token_urlsafe(12)


def solved_n(challenge: str) -> str:
    letters = challenge[::-1]
    return letters[3:] + letters[:3]


def solved_signature(scrambled: str) -> str:
    letters = list(scrambled[::-1])
    letters[0], letters[2] = letters[2], letters[0]
    return "".join(letters)
