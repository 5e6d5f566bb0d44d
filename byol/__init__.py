"""BYOL (Bootstrap Your Own Latent, arXiv 2006.07733): the method and what it needs.

Start with `byol/learner.py`, which holds the method; `train_byol.py` holds the loop.
"""
