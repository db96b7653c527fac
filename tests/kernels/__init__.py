"""Tests of the local kernels: the definition against mathematics, the rest against it."""
