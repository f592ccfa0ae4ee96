"""Law: who a node is, and whether it said a thing, is decided here by bytes, keys and a time that is given.

The only room that knows cryptography. It keeps no socket and no clock; files are read and written at its edge alone.
"""
