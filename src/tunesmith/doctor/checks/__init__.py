"""Verdicts on facts: each function takes all facts and yields lines; none asks the machine anything."""
