"""Fuzzing of all that parses bytes from a file or a peer; docs/fuzzing.md says how to run it."""
