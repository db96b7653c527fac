"""Tests of the passes, most of them golden files."""
