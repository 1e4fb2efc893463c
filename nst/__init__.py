"""The command line: it connects the packages and holds no logic of its own."""
