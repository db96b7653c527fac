"""Tests of the runtime: file format, dealer, parties, client, processes."""
