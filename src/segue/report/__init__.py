"""Tables, figures and one self-contained HTML page, from records alone.

Submodules are imported by name. None of them needs torch, jax or transformers.
"""
