"""Sealed files: data and models at rest for named recipients, in one format (docs/sealing.md)."""
