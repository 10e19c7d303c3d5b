"""Scores of weather forecasts as WeatherBench 2 defines them (arXiv 2308.15560), and baselines."""
