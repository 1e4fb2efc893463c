"""The command line: connects the packages and has no logic of its own."""
