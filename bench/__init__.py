"""Compare speed, memory and disk with other toolkits. Each script prints a table, and as its last line a ratio."""
