"""Strategies at work: the vocabulary of rules, what moves numbers, columns and tensors, and checks of their answers."""
