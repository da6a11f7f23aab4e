"""What the container's health check runs: `python -m app.web.healthcheck` fails unless both ports answer 200."""

import os
import sys
from http.client import HTTPConnection, HTTPException

TIMEOUT = 4.0
"""Seconds that a port may take; for both it must stay below the time that the Dockerfile allows."""


def find_fault(port: int) -> str | None:
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return f"port {port}: {error}"
    return None if status == 200 else f"port {port}: status {status}"


def main() -> None:
    faults = [find_fault(int(os.environ[name])) for name in ("PORT", "MCP_PORT")]
    sys.exit("\n".join(fault for fault in faults if fault) or None)


if __name__ == "__main__":
    main()
