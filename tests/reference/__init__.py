"""FLSA/1 a second time, in plain Python integers, written from docs/protocol.md and the cited standards.

It shares no line with the product and imports nothing of it (tests/test_reference.py looks), so that a vector on which
both agree says something. Slow and not constant-time: fit for vectors only.
"""
