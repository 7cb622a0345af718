"""Read an action, in whatever tool or shell idiom, as what it is for.

tools -> commands -> shell (tree-sitter) -> programs, writers, searches, git, interpreters, sed, patches,
windowed -> intents.
"""
