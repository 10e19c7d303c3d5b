"""The parts of Prithvi-EO: encoder, decoder, codes of time and place, official layouts."""
