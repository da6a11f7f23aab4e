"""What both ports share: middleware, authentication, errors, probes and the MCP server. It knows no feature."""
