"""Weather networks: Aurora, light decoders on its latents, Met²Net."""
