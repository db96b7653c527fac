"""Tests of the documents: examples run, links and paths exist, generated tables are current."""
