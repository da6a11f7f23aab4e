"""Shared by both ports: middleware, authentication, errors, probes and the MCP server. Independent of the features."""
