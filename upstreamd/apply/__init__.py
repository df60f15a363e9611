"""Apply: put a text in force, and prove it."""
