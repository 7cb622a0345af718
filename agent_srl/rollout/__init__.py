"""Engines that generate, and the two ways to use them: single steps and whole episodes."""
