"""Parts of Met²Net: encoders and decoders of single variables, and a translator between them."""
