"""Many videos from one table: rows, where they are made, and the table of results."""
