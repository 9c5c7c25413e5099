"""A small stand-in for a checkout of icefall, for tests without one: Conformers under icefall's names, rewritten.

They compute the same as icefall's in evaluation mode, in the simplest way: by utterance, with distances from a table.
"""
