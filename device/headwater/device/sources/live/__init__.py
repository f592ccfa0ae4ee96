"""Law: live sensors become examples by three pure steps: a payload a number, numbers windows, windows slots of a store.

payload.py (bytes → numbers)   windowing.py (samples → windows)   store.py (examples on disk)   source.py (the shell)
"""
