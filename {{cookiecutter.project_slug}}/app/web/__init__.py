"""What both ports share: middleware, authentication, errors, probes and the MCP server. Independent of the features."""
