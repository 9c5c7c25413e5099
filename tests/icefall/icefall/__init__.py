"""A checkout of icefall in small, for tests where none is at hand: Conformers under icefall's names, written anew.

They compute what icefall's do in evaluation mode, in the plainest way: utterance by utterance, distances by a table.
"""
