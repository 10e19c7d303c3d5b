"""Systems of the music domain."""
