"""The command line: arguments in, printing out; what a command does lives elsewhere."""
