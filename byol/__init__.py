"""BYOL (Bootstrap Your Own Latent, arXiv 2006.07733): the method and what it needs.

Start with `byol/method.py`, which holds the method; `train_byol.py` holds the loop. What is in the
other files: the tree in README.md.
"""

__version__ = "0.1.0"
