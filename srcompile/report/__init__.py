"""Reports: what a program costs and discloses, for people and for programs."""
