"""Readers, one file a format; each has `NAME`, `matches(head)` and `read(path) -> Raw`.

A reader may raise anything: `refusing` turns it into a DataError that names the file. Adding a
format is adding a file here and naming it in `thriftgrad.data.files`.
"""
