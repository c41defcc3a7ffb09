"""The layout of the data folder: which keys belong to jobs.

    jobs/<job id>/input              the submitted file
    jobs/<job id>/a<attempt>/…       the result of an attempt
    jobs/<job id>/m<digest>/…        a mix or a version, made from the result
    scratch/<job id>-a<attempt>/…    the working files of an attempt
    mixing/…                         the working files of mixes and smaller copies, deleted at start

Of jobs, only keys that match `TREE` or `INPUT` are ever deleted.
"""

from __future__ import annotations

import re

MIXING = "mixing"
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
JOB = re.compile(_UUID)
ATTEMPT = re.compile(r"a([1-9][0-9]{0,3})")
SCRATCH = re.compile(rf"({_UUID})-a[1-9][0-9]{{0,3}}")
TREE = re.compile(rf"jobs/{_UUID}(?:/a[1-9][0-9]{{0,3}}|/m[0-9a-f]{{32}})?|scratch/{_UUID}-a[1-9][0-9]{{0,3}}")
INPUT = re.compile(r"input(?:\.[A-Za-z0-9]{1,10})?|\.input.*\.part")


def check_tree(prefix: str) -> None:
    """Raise `ValueError` unless `prefix` is the folder of a job, of a result, of a mix or of scratch."""
    if not TREE.fullmatch(prefix):
        raise ValueError(f"not a job folder: {prefix!r}")
