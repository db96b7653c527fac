"""The intermediate representation: types, graph, text, verifier and plaintext interpreter."""
