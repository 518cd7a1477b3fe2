"""Common code of evaluation protocols: features, labeled sets and subsets, classifiers. They are
in `evaluation.protocols`.
"""
