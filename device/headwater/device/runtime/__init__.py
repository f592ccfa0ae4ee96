"""Law: a graph that was sent is hostile until the guard has read it all; then stock onnxruntime runs it, in bounds."""
