"""An organisation's consent: what was approved, by whom, for what; and what a run that is offered waits for."""
