"""Models in the files of other engines: a target is one file and one line of the table."""
