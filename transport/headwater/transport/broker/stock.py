"""Law: the only module that imports amqtt; every other one takes its classes from here.

amqtt carries no type marker, so its names are Any to a type checker; our subclasses say their own types.
"""
