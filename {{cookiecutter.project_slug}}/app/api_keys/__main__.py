"""Issue, list and revoke API keys from a shell: where no admin key is set, or to get the first one."""

import argparse
import asyncio
import sys

from pydantic import ValidationError

from app.api_keys.schemas import ApiKeyCreate
from app.api_keys.service import issue_api_key, list_api_keys, revoke_api_key
from app.db.database import open_database
from app.errors import ServiceError
from app.settings import load_settings


async def run(arguments: argparse.Namespace) -> None:
    settings = load_settings()
    database = open_database(
        settings.database_url.get_secret_value(), pool_size=1, through_pooler=settings.through_pooler
    )
    try:
        await database.ping()  # says so where the migrations have not run
        match arguments.command:
            case "issue":
                data = ApiKeyCreate(name=arguments.name)
                print((await database.write(issue_api_key, data, settings.key_secret())).key)
            case "list":
                for key in await database.read(list_api_keys):
                    state = "revoked" if key.revoked_at else "in use"
                    print(f"{key.id}\t{state}\t{key.created_at:%Y-%m-%d}\t{key.name}")
            case "revoke":
                await database.write(revoke_api_key, arguments.id)
    except ValidationError as error:
        sys.exit(f"NAME: {error.errors()[0]['msg']}")
    except ServiceError as error:
        sys.exit(str(error))
    finally:
        await database.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.api_keys", description="Manage the service's API keys.")
    commands = parser.add_subparsers(dest="command", required=True)
    issue = commands.add_parser("issue", help="issue a key and print it, this once")
    issue.add_argument("name", metavar="NAME", help="who or what will use it")
    commands.add_parser("list", help="list all keys: id, state, date of issue, name")
    revoke = commands.add_parser("revoke", help="revoke a key: within five seconds it stops working everywhere")
    revoke.add_argument("id", metavar="ID", type=int, help="as `list` shows it")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
