"""Pairwise comparison of answers by a language model, as in the paper's language experiment.

``responses`` and ``generation`` hold what models answered, ``client`` and ``cache`` ask a judge,
``pairwise`` and ``summary`` make verdicts of its words, ``paper`` holds the paper's settings.
"""
