"""What a signed model becomes for other programs, and what is said of it: never itself the thing that is verified."""
