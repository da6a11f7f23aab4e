"""Starts the service: `python -m app`. `gunicorn.conf.py` configures the server."""

import argparse
import os

from app.settings import load_settings


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m app",
        description="Serve the REST API and the MCP server. For the settings, see .env.example; for the server, gunicorn.conf.py.",
    ).parse_args()
    settings = load_settings()
    # gunicorn and uvicorn would read these from the environment themselves, and crash on an empty value.
    os.environ["WEB_CONCURRENCY"] = str(settings.web_concurrency)
    for name in ("FORWARDED_ALLOW_IPS", "GUNICORN_CMD_ARGS", "SENDFILE"):
        os.environ.pop(name, None)

    from gunicorn.app.wsgiapp import run  # imported late: the import itself reads the environment

    run(prog="python -m app")


if __name__ == "__main__":
    main()
