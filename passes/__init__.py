"""The passes: each takes a module and returns a module, and stands in a file of its name."""
