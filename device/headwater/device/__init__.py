"""Law: data stay here. The device trains graphs that it was sent, on examples that it alone can read.

What this room imports is light: no ONNX package, no database, no command-line library (a test holds it to that).
"""
