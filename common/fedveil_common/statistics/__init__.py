"""Statistics plans: which coordinates their one secure sum has (`vector`), and what an opened one says (`answers`)."""
