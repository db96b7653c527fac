"""The front end: PyTorch models, and pools of them, become graph-level modules."""
