"""The command line: one file per command, one table, imported when used."""
