"""Parts of scOT, the scalable operator transformer of Poseidon."""
