"""The domains: one package each, none of which imports another."""
