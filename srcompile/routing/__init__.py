"""Routers and the pools they choose from."""
