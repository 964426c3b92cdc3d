"""TorchRec modules, training and tools of genrec-plugins; see the README."""

__version__ = "0.1.0"
