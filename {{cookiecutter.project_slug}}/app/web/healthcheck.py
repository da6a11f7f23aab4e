"""The container's health check: `python -m app.web.healthcheck PORT MCP_PORT` fails unless both ports answer 200.

The arguments are the default ports. It reads the environment itself: importing the settings would take a second.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

TIMEOUT = 4.0
"""Seconds per port. Twice this must be less than the timeout in the Dockerfile."""

TRUE = ("1", "true", "t", "yes", "y", "on")


def find_fault(host: str, port: int) -> str | None:
    connection = HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return f"port {port}: {error}"
    return None if status == 200 else f"port {port}: status {status}"


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python -m app.web.healthcheck PORT MCP_PORT")
    host = os.environ.get("HOST", "")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    names = ["PORT"] if os.environ.get("ONE_PORT", "").lower() in TRUE else ["PORT", "MCP_PORT"]
    faults = []
    for name, default in zip(names, sys.argv[1:], strict=False):
        value = os.environ.get(name, "")
        faults.append(find_fault(host, int(value if value.isdecimal() else default)))
    sys.exit("\n".join(fault for fault in faults if fault) or None)


if __name__ == "__main__":
    main()
