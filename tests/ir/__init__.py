"""Tests of types, text and verifier of the IR."""
