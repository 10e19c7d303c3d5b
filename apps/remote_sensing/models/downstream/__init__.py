"""Parts of networks on top of an encoder: its features, how images fit it, how weights reach it."""
