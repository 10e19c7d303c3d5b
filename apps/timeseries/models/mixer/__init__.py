"""The parts of mixer forecasters: layers, networks' stages, and official names."""
