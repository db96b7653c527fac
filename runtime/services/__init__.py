"""Roles as services: settings, links, state on disk, and what dealer, parties and client do."""
