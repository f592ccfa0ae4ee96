"""Law: the only room that knows MQTT. Outside it there are messages, objects and nodes, and links that may drop.

A PUBACK means that a broker has the bytes, no more: whoever waits for an answer asks again.
"""
