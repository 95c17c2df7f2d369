"""Studies: a question, several runs, a table."""
