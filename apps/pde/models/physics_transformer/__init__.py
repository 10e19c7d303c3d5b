"""Parts of GPhyT: the network, its blocks, tokenizers, derivatives, integrators, and official names."""
