"""Tests of the op registry, op by op."""
