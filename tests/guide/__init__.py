"""The guide and the READMEs: what they print is run, what they name exists."""
