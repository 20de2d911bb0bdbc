"""Strategies at work: the vocabulary of analytic rules, and what moves numbers, columns and tensors."""
