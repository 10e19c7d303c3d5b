"""Parts of SineNet: the network, its layers, and its official names."""
