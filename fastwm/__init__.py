"""fastwm: JEPA world models and planning in their latent space, at the speed of the hardware."""

__version__ = "0.1.0"
