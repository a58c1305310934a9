"""The life of a model after its run: stages, countersignatures, release, freshness (docs/registry.md)."""
