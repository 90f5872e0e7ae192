"""A variational autoencoder: the score term beyond GANs."""
