"""Differential privacy: what noise a plan needs, what it costs, and the ledger of what was spent."""
