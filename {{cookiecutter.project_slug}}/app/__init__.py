"""The service. `main` assembles it, `features` lists its features, and `web` and `db` are the platform below."""
