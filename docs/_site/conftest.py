"""What only the site's own libraries can import is no place for doctests."""

collect_ignore = ["docstrings.py"]
