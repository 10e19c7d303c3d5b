"""What networks on top of an encoder share: what it gives, how images fit it, how weights reach it."""
