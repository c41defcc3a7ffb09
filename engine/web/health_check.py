"""Health check of the container: `python -m engine.web.health_check`."""

from __future__ import annotations

import sys
import urllib.request

from config.settings import Web, load
from engine.errors import ConfigurationError

_TIMEOUT_S = 4.0
_HERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def url(web: Web) -> str:
    """Return the address at which a server that listens on `web.host` answers on this machine."""
    host = _HERE.get(web.host, web.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{web.port}/healthz"


def main() -> None:
    """Raise `OSError` unless the server answers."""
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url(load().web), timeout=_TIMEOUT_S).close()


if __name__ == "__main__":
    try:
        main()
    except ConfigurationError as error:
        sys.exit(error.message)
    except OSError as error:
        sys.exit(f"The server does not answer: {error}")
