"""From a publisher's files to data directories: readers, conversion, checks."""
