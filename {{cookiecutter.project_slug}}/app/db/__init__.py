"""The database: connections, transactions, column types and migrations. Independent of the features."""
