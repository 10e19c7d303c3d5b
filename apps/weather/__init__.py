"""Weather: Aurora, its light decoders, Met2Net, and scores of anybody's forecasts."""
