"""API keys: issued, listed, revoked and verified. `python -m app.api_keys` manages them from a shell."""
