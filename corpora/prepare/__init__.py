"""From a publisher's files to data directories: readers of lists, conversion of audio, ids, checks."""
