"""What evaluation protocols share: features, labeled sets and subsets, classifiers. Protocols are
in `evaluation.protocols`.
"""
