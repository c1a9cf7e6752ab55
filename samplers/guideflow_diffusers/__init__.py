"""Samplers made of diffusers parts: a denoiser, an autoencoder and a text encoder from an ordinary diffusers folder."""
