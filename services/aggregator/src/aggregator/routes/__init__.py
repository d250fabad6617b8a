"""The HTTP endpoints under /v1, one module for each kind of caller. They check tokens and shapes, and decide
nothing.
"""
