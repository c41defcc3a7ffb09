"""Run the gateway to a Ray cluster: `python -m engine.gateway '<GatewayConfig as JSON>'`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import NoReturn

from engine.gateway.gateway import Gateway
from engine.gateway.protocol import GatewayConfig
from engine.logs import configure
from engine.process.confinement import die_with_parent, forbid_inspection
from engine.worker.process import MessageWriter
from engine.worker.protocol import SECRET_VARIABLE

log = logging.getLogger("engine.gateway")


def main() -> NoReturn:
    die_with_parent()
    os.umask(0o077)
    forbid_inspection()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = GatewayConfig.model_validate_json(sys.argv[1])
    secret = os.environ.pop(SECRET_VARIABLE, None)  # child processes must not inherit it
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    configure(config.worker.log_level, json_lines=config.worker.json_lines)
    asyncio.run(_run(Gateway(config, secret, MessageWriter(out))))


async def _run(gateway: Gateway) -> NoReturn:
    """Serve, then exit without waiting for threads in which Ray waits for a lost head."""
    code = 1
    try:
        code = await gateway.serve()
    except Exception:
        log.exception("the gateway failed")
    os._exit(code)


if __name__ == "__main__":
    main()
