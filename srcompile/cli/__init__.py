"""The command lines: `srcompile` and `srrun`."""
