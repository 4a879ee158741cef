"""Speed, memory and disk beside peers. Each script prints a table, and last a ratio measured in that run."""
