"""Law: pure learning. numpy in, numpy out; no clock, no entropy, no file, no socket.

Time, randomness and bytes come in as arguments; what is to be done goes out as values.
"""
