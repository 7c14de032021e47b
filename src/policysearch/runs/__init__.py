"""A run's folder: rows that are only added, who writes, how it is read, repaired and gone on with."""
