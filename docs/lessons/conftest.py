"""Lessons are programs of half a minute, not modules with doctests: tests/docs runs them."""

collect_ignore_glob = ["[0-9]*.py"]
