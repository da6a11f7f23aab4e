"""Issues, lists and revokes API keys from a shell, without the admin key."""

import argparse
import asyncio
import re
import sys
from datetime import datetime, timedelta

from pydantic import ValidationError

from app.api_keys.schemas import ApiKeyCreate, ApiKeyRead
from app.api_keys.service import issue_api_key, list_api_keys, revoke_api_key
from app.db.columns import utc_now
from app.db.database import open_database
from app.errors import ServiceError
from app.settings import load_settings

_UNITS = {"h": "hours", "d": "days"}


async def run(arguments: argparse.Namespace) -> None:
    settings = load_settings()
    database = open_database(
        settings.database_url.get_secret_value(), pool_size=1, through_pooler=settings.through_pooler
    )
    try:
        await database.ping()  # fails with a clear message if migrations have not run
        match arguments.command:
            case "issue":
                data = ApiKeyCreate(name=arguments.name, read_only=arguments.read_only, expires_at=arguments.expires)
                print((await database.write(issue_api_key, data, settings.key_secret())).key)
            case "list":
                for key in await database.read(list_api_keys):
                    print(describe(key))
            case "revoke":
                await database.write(revoke_api_key, arguments.id)
    except ValidationError as error:
        sys.exit(f"NAME: {error.errors()[0]['msg']}")
    except ServiceError as error:
        sys.exit(str(error))
    finally:
        await database.close()


def describe(key: ApiKeyRead) -> str:
    state = "revoked" if key.revoked_at else "expired" if key.expires_at and key.expires_at <= utc_now() else "active"
    rights = "read-only" if key.read_only else "read-write"
    expiry = f"until {key.expires_at:%Y-%m-%d}" if key.expires_at else "no expiry"
    return f"{key.id}\t{state}\t{rights}\t{key.created_at:%Y-%m-%d}\t{expiry}\t{key.name}"


def after(duration: str) -> datetime:
    match = re.fullmatch(r"([1-9][0-9]{0,4})([hd])", duration)
    if match is None:
        raise argparse.ArgumentTypeError(f"{duration!r} is not a number of days or hours, such as 90d or 12h")
    return utc_now() + timedelta(**{_UNITS[match[2]]: int(match[1])})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.api_keys", description="Manage the service's API keys.")
    commands = parser.add_subparsers(dest="command", required=True)
    issue = commands.add_parser("issue", help="issue a key and print it; it is never shown again")
    issue.add_argument("name", metavar="NAME", help="who or what will use the key")
    issue.add_argument(
        "--read-only", action="store_true", help="allow reading only, which is best for most AI assistants"
    )
    issue.add_argument(
        "--expires",
        metavar="TIME",
        type=after,
        help="days or hours until it expires, such as 90d or 12h; by default, it never does",
    )
    commands.add_parser("list", help="list all keys: id, state, rights, date of issue, expiry, name")
    revoke = commands.add_parser("revoke", help="revoke a key, which then stops working within five seconds")
    revoke.add_argument("id", metavar="ID", type=int, help="the id that `list` shows")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
