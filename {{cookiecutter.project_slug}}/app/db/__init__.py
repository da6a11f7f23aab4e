"""The database: connections, transactions, column types and migrations. It knows no feature."""
