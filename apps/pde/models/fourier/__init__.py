"""The parts of Fourier neural operators: the spectral convolution, blocks, and official names."""
