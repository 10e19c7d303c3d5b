"""Recorded cases of weather systems, a module each."""
