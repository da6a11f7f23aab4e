"""The service: `main` puts it together, `features` lists what it can do, `web` and `db` are the platform below."""
