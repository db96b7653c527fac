"""One party's machine: kernels, channels, program and engine; standard library and NumPy only."""
